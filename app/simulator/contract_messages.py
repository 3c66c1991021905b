"""What the streams of the futures markets send, field by field as Binance names them. Times are milliseconds."""

import msgspec

from app.simulator.contract import Contract
from app.simulator.contracts import Contracts
from app.simulator.market import TakerOrder
from app.simulator.venues import Venue
from app.simulator.wire import fixed

_encode = msgspec.json.Encoder().encode

STREAM_TYPES: dict[Venue, int] = {"linear": 1, "inverse": 2}
"""How an all-market stream, which has both markets, tells them apart."""


class MarkPriceUpdate(msgspec.Struct):
    """A mark, with the funding to come; a contract with delivery has an empty rate."""

    event: str = msgspec.field(name="e")
    event_time: int = msgspec.field(name="E")
    symbol: str = msgspec.field(name="s")
    mark: str = msgspec.field(name="p")
    average: str = msgspec.field(name="ap")
    settlement: str = msgspec.field(name="P")
    index: str = msgspec.field(name="i")
    rate: str = msgspec.field(name="r")
    next_funding: int = msgspec.field(name="T")
    stream_type: int = msgspec.field(name="st")


class ContractBook(msgspec.Struct):
    """The top of a book. Unlike spot's it says when."""

    event: str = msgspec.field(name="e")
    update_id: int = msgspec.field(name="u")
    symbol: str = msgspec.field(name="s")
    bid: str = msgspec.field(name="b")
    bid_quantity: str = msgspec.field(name="B")
    ask: str = msgspec.field(name="a")
    ask_quantity: str = msgspec.field(name="A")
    transaction_time: int = msgspec.field(name="T")
    event_time: int = msgspec.field(name="E")


class ContractTrade(msgspec.Struct):
    """The trades of one taker order."""

    event: str = msgspec.field(name="e")
    event_time: int = msgspec.field(name="E")
    aggregate_id: int = msgspec.field(name="a")
    symbol: str = msgspec.field(name="s")
    price: str = msgspec.field(name="p")
    quantity: str = msgspec.field(name="q")
    normal_quantity: str = msgspec.field(name="nq")
    first_id: int = msgspec.field(name="f")
    last_id: int = msgspec.field(name="l")
    trade_time: int = msgspec.field(name="T")
    buyer_is_maker: bool = msgspec.field(name="m")
    stream_type: int = msgspec.field(name="st")


class ContractDepth(msgspec.Struct):
    """The best levels of a book."""

    event: str = msgspec.field(name="e")
    event_time: int = msgspec.field(name="E")
    transaction_time: int = msgspec.field(name="T")
    symbol: str = msgspec.field(name="s")
    first_update_id: int = msgspec.field(name="U")
    update_id: int = msgspec.field(name="u")
    previous_update_id: int = msgspec.field(name="pu")
    bids: list[tuple[str, str]] = msgspec.field(name="b")
    asks: list[tuple[str, str]] = msgspec.field(name="a")


def mark_price(contracts: Contracts, contract: Contract) -> bytes:
    """A mark as bytes."""
    now_ms = contracts.now_ms
    mark = fixed(contract.mark(now_ms))
    return _encode(
        MarkPriceUpdate(
            "markPriceUpdate",
            now_ms,
            contract.listing.symbol,
            mark,
            mark,
            fixed(contract.index()),
            fixed(contract.index()),
            fixed(contract.rate(now_ms)) if contract.is_perpetual else "",
            contracts.next_funding_ms(contract),
            STREAM_TYPES[contract.listing.venue],
        )
    )


def mark_prices(contracts: Contracts, these: list[Contract]) -> bytes:
    """Several marks as one array."""
    return b"[" + b",".join(mark_price(contracts, contract) for contract in these) + b"]"


def book_ticker(contract: Contract, now_ms: int) -> bytes:
    """A quote as bytes."""
    bid, ask = contract.book(now_ms)
    quantity = fixed(contract.quantity())
    symbol = contract.listing.symbol
    return _encode(
        ContractBook(
            "bookTicker", contract.update_id, symbol, fixed(bid), quantity, fixed(ask), quantity, now_ms, now_ms
        )
    )


def aggregate_trade(contract: Contract, order: TakerOrder) -> bytes:
    """An order's trades in one, as bytes."""
    time_ms = order.time_us // 1000
    quantity = fixed(contract.quantity())
    return _encode(
        ContractTrade(
            "aggTrade",
            time_ms,
            order.aggregate_id,
            contract.listing.symbol,
            fixed(contract.traded_at(order.price, time_ms)),
            quantity,
            quantity,
            order.first_id,
            order.last_id,
            time_ms,
            order.buyer_is_maker,
            STREAM_TYPES[contract.listing.venue],
        )
    )


def depth(contract: Contract, levels: int, now_ms: int) -> bytes:
    """The best levels as bytes."""
    bid, ask = contract.book(now_ms)
    tick, quantity, update_id = contract.listing.tick, fixed(contract.quantity()), contract.update_id
    return _encode(
        ContractDepth(
            "depthUpdate",
            now_ms,
            now_ms,
            contract.listing.symbol,
            update_id,
            update_id,
            update_id - 1,
            [(fixed(max(tick, bid - number * tick)), quantity) for number in range(levels)],
            [(fixed(ask + number * tick), quantity) for number in range(levels)],
        )
    )
