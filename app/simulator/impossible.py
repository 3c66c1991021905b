"""Ticks that cannot be, in the shape of real ones. They say nothing about the market and change nothing in it."""

from typing import Literal

import msgspec

from app.simulator.market import Market
from app.simulator.messages import AggregateTrade, BookTicker, MiniTicker
from app.simulator.wire import fixed

Impossibility = Literal["zero", "negative", "crossed", "nan", "older"]
KINDS: tuple[Impossibility, ...] = ("zero", "negative", "crossed", "nan", "older")
BAD_NUMBERS = {"zero": "0.00000000", "negative": "-1.00000000", "nan": "NaN"}

_LONG_AGO = 1000


def quote(market: Market, kind: Impossibility) -> bytes:
    """A bookTicker: with bad prices, with bid above ask, or at twice the price with an update id of long ago."""
    bid, ask, update_id = fixed(market.bid), fixed(market.ask), market.update_id + 1
    match kind:
        case "crossed":
            bid, ask = ask, bid
        case "older":
            bid, ask, update_id = fixed(market.bid * 2), fixed(market.ask * 2), market.update_id - _LONG_AGO
        case _:
            bid = ask = BAD_NUMBERS[kind]
    quantities = fixed(market.bid_quantity), fixed(market.ask_quantity)
    return msgspec.json.encode(BookTicker(update_id, market.listing.symbol, bid, quantities[0], ask, quantities[1]))


def trade(market: Market, kind: Impossibility, now_ms: int) -> bytes:
    """An aggTrade: at a bad price, or at twice the price with an id of long ago."""
    shift = -_LONG_AGO if kind == "older" else 0
    price = fixed(market.last * 2) if kind == "older" else BAD_NUMBERS[kind]
    return msgspec.json.encode(
        AggregateTrade(
            event="aggTrade",
            event_time=now_ms,
            symbol=market.listing.symbol,
            aggregate_id=market.aggregate_id + shift,
            price=price,
            quantity=fixed(market.listing.typical_quantity),
            first_id=market.next_id + shift,
            last_id=market.next_id + shift,
            trade_time=now_ms,
            buyer_is_maker=False,
        )
    )


def mini_ticker(market: Market, kind: Impossibility, now_ms: int) -> bytes:
    """A miniTicker with a bad last price."""
    bad, good = BAD_NUMBERS[kind], fixed(market.last)
    return msgspec.json.encode(
        MiniTicker("24hrMiniTicker", now_ms, market.listing.symbol, bad, good, good, good, good, good)
    )
