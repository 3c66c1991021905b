"""Prices on the real Redis-compatible server: written, read, fenced, gaps noticed."""

import json
from contextlib import aclosing
from decimal import Decimal

import pytest
from redis.asyncio import Redis

from app.bus import keys
from app.bus.messages import PriceFlush, PriceHead
from app.bus.prices import (
    Fenced,
    PriceBoard,
    PricePublisher,
    decode_flush,
    read_instruments,
    read_prices,
    write_instruments,
)
from app.bus.subscription import Message, Resync, Subscription
from app.domain.instruments import Instrument
from app.domain.prices import Feed, Price

LIVE = Feed(state="live", source="binance", age_ms=12)


def price(symbol: str, value: str, at_ms: int = 1_000) -> Price:
    mid = Decimal(value)
    return Price(symbol, mid, "mid", mid, mid, mid, None, at_ms, at_ms, at_ms)


def flush(number: int, *prices: Price, epoch: int = 1) -> PriceFlush:
    return PriceFlush(epoch, number, 1_000 + 100 * number, len(prices), LIVE, list(prices))


async def test_a_flush_is_in_the_hash_and_on_the_channel_as_it_was_sent(redis: Redis) -> None:
    sent = flush(1, price("BTCUSDT", "67000.155"), price("１２３４５６", "0.00000001"))
    async with aclosing(Subscription(redis, [keys.PRICE_CHANNEL], silence_s=None).events()) as events:
        assert await anext(events) == Resync()

        await PricePublisher(redis, 1.0).publish(sent)

        message = await anext(events)
    assert isinstance(message, Message)
    assert decode_flush(message.payload) == sent
    head, prices = await read_prices(redis, 1.0)
    assert head == PriceHead(1, 1, 1_100, LIVE)
    assert prices == {quoted.symbol: quoted for quoted in sent.prices}


async def test_the_hash_keeps_decimals_as_strings(redis: Redis) -> None:
    await PricePublisher(redis, 1.0).publish(flush(1, price("PEPEUSDT", "0.000000010000000001")))

    stored = json.loads(await redis.hget(keys.PRICES, "PEPEUSDT"))

    assert isinstance(stored[1], str)
    assert Decimal(stored[1]) == Decimal("0.000000010000000001")


async def test_a_price_worker_of_an_older_epoch_is_told_that_it_is_over(redis: Redis) -> None:
    await PricePublisher(redis, 1.0).publish(flush(1, epoch=8))

    with pytest.raises(Fenced):
        await PricePublisher(redis, 1.0).publish(flush(900, epoch=7))
    await PricePublisher(redis, 1.0).publish(flush(2, epoch=8))


async def test_prices_written_survive_an_empty_flush(redis: Redis) -> None:
    publisher = PricePublisher(redis, 1.0)
    await publisher.publish(flush(1, price("BTCUSDT", "1")))
    await publisher.publish(flush(2))

    head, prices = await read_prices(redis, 1.0)

    assert head is not None
    assert head.flush == 2
    assert list(prices) == ["BTCUSDT"]


async def test_an_empty_server_has_no_prices_and_no_instruments(redis: Redis) -> None:
    assert await read_prices(redis, 1.0) == (None, {})
    assert await read_instruments(redis, 1.0) == {}


async def test_instruments_come_back_as_they_were_written(redis: Redis) -> None:
    listed = Instrument(
        symbol="BTCUSDT",
        market="spot",
        base="BTC",
        quote="USDT",
        settle="USDT",
        tick_size=Decimal("0.01"),
        step_size=Decimal("0.00001"),
        status="halted",
    )
    await write_instruments(redis, [listed], 1.0)

    assert await read_instruments(redis, 1.0) == {"BTCUSDT": listed}


class TestPriceBoard:
    def board(self) -> PriceBoard:
        board = PriceBoard()
        board.load(PriceHead(3, 10, 2_000, LIVE), {"BTCUSDT": price("BTCUSDT", "1")})
        return board

    def test_it_takes_the_next_flush(self) -> None:
        board = self.board()

        assert board.apply(flush(11, price("BTCUSDT", "2"), epoch=3)) == "applied"
        assert board.prices["BTCUSDT"].price == 2
        assert (board.epoch, board.flush, board.as_of_ms) == (3, 11, 2_100)

    @pytest.mark.parametrize(
        ("epoch", "number"),
        [(3, 12), (4, 1), (4, 11)],
        ids=["a flush is missing", "a new epoch", "a new epoch that continues the count"],
    )
    def test_it_asks_for_the_snapshot_when_it_cannot_know_what_it_missed(self, epoch: int, number: int) -> None:
        board = self.board()

        assert board.apply(flush(number, price("BTCUSDT", "2"), epoch=epoch)) == "gap"
        assert board.prices["BTCUSDT"].price == 1

    @pytest.mark.parametrize(("epoch", "number"), [(3, 10), (3, 9), (2, 999)])
    def test_it_drops_what_is_not_newer(self, epoch: int, number: int) -> None:
        board = self.board()

        assert board.apply(flush(number, price("BTCUSDT", "2"), epoch=epoch)) == "old"
        assert board.prices["BTCUSDT"].price == 1

    def test_an_older_snapshot_does_not_replace_a_newer_one(self) -> None:
        board = self.board()
        board.load(PriceHead(2, 999, 9_000, LIVE), {})

        assert board.epoch == 3
        assert board.prices
