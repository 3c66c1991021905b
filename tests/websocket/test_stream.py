"""The stream as a client sees it: real sockets, a real uvicorn, a real Redis."""

import asyncio
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import connect
from app.domain.protocol import Close
from app.embedded.redis import EmbeddedRedis
from app.websocket.events import EventNotice
from app.websocket.limits import StreamLimits
from tests.websocket.conftest import Client, Server, serving, until
from tests.websocket.market import Trader, closed, now_ms, pnl_flush, position, row_update

PRICES = {"BTCUSDT": "67000.15", "ETHUSDT": "2499.5"}


def trader(user: str = "alice", slot: int = 0) -> Trader:
    held = {
        slot * 10 + 1: position(f"{user}-btc", "BTCUSDT", "0.5", "64000.10", user_id=user),
        slot * 10 + 2: position(f"{user}-eth", "ETHUSDT", "-3", "2500", user_id=user),
    }
    return Trader(user, slot, held)


async def pnl_subscriber(server: Server, session: str = "alice-1") -> Client:
    """A client whose user the P&L worker has just told everything about, subscribed to all of it."""
    client = await server.connect(session)
    server.market.traders = server.market.traders or [trader()]
    await server.market.flush(PRICES, users=[t.update(full=True) for t in server.market.traders])
    user = client.frames[0]["user_id"]
    await until(lambda: user in server.stream.state.mirror.users)
    for number, channel in enumerate(("pnl", "positions"), start=100):
        await client.ask("subscribed", type="subscribe", id=number, channel=channel)
        await client.next("snapshot")
    return client


class TestGreeting:
    async def test_hello_comes_first_and_says_what_is_allowed(self, server: Server) -> None:
        client = await server.connect()
        hello = client.frames[0]
        assert hello["protocol"] == 1
        assert hello["user_id"] == "alice"
        assert hello["heartbeat_ms"] == 15_000
        assert hello["limits"] == {
            "max_symbols": 200,
            "max_message_bytes": 4096,
            "max_messages_per_second": 20,
            "max_hz": 10,
        }
        assert hello["feed"] == {"state": "live", "source": "binance", "age_ms": 41, "simulated": False}
        assert client.socket.subprotocol == "tidemark.v1.json"

    async def test_ping_is_answered(self, server: Server) -> None:
        client = await server.connect()
        pong = await client.ask("pong", type="ping", id=8)
        assert pong["id"] == 8
        assert pong["server_time_ms"] > 0


class TestPrices:
    async def test_snapshot_then_update(self, server: Server) -> None:
        await server.market.flush({"BTCUSDT": "67000.15"})
        await until(lambda: "BTCUSDT" in server.stream.state.prices)
        client = await server.connect()
        reply = await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=["BTCUSDT", "NOPE"])
        assert reply == {
            "type": "subscribed",
            "id": 1,
            "channel": "prices",
            "results": [
                {"symbol": "BTCUSDT", "ok": True},
                {"symbol": "NOPE", "ok": False, "code": "unknown_symbol"},
            ],
        }
        snapshot = await client.next()
        assert (snapshot["type"], snapshot["channel"], snapshot["epoch"]) == ("snapshot", "prices", 7)
        assert snapshot["prices"][0]["price"] == "67000.15"
        assert snapshot["prices"][0]["bid"] == "67000.1"

        await server.market.flush({"BTCUSDT": "67001.15", "ETHUSDT": "2500"})
        update = await client.next()
        assert update["type"] == "update"
        assert update["seq"] > snapshot["seq"]
        assert [row["symbol"] for row in update["prices"]] == ["BTCUSDT"]
        assert update["prices"][0]["price"] == "67001.15"
        assert update["event_ms"] == update["prices"][0]["event_ms"]
        assert update["merged"] >= 1
        assert "pnl" not in update

    async def test_look_alike_symbols_are_unknown_and_foreign_scripts_the_exchange_lists_are_not(
        self, server: Server
    ) -> None:
        client = await server.connect()
        symbols = ["btcusdt", "BTCUSDT ", "ＢＴＣＵＳＤＴ", "BTCUSD\u0422", "１２３４５６"]
        reply = await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=symbols)
        assert [result["ok"] for result in reply["results"]] == [False, False, False, False, True]

    async def test_subscribing_twice_is_harmless(self, server: Server) -> None:
        client = await server.connect()
        for number in (1, 2):
            reply = await client.ask("subscribed", type="subscribe", id=number, channel="prices", symbols=["BTCUSDT"])
            assert reply["results"] == [{"symbol": "BTCUSDT", "ok": True}]
        await server.market.flush({"BTCUSDT": "1"})
        await client.next("update")
        assert len(server.stream.state.watched) == 1

    async def test_unsubscribe_leaves_everything_as_it_was(self, server: Server) -> None:
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=["BTCUSDT", "ETHUSDT"])
        reply = await client.ask("unsubscribed", type="unsubscribe", id=2, channel="prices", symbols=["BTCUSDT"])
        assert reply["results"] == [{"symbol": "BTCUSDT", "ok": True}]
        assert set(server.stream.state.watched) == {"ETHUSDT"}
        await client.ask("unsubscribed", type="unsubscribe", id=3, channel="prices")
        assert server.stream.state.watched == {}
        await server.market.flush({"BTCUSDT": "1", "ETHUSDT": "1"})
        pong = await client.ask("pong", type="ping", id=4)
        assert pong["id"] == 4
        assert all(frame["type"] != "update" for frame in client.frames)

    async def test_no_more_symbols_than_the_limit(self, redis: Redis) -> None:
        async with serving(redis, limits=StreamLimits(max_symbols=3)) as server:
            client = await server.connect()
            symbols = [f"S{n}USDT" for n in range(5)]
            reply = await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=symbols)
            assert [result.get("code") for result in reply["results"]] == [None] * 3 + ["too_many_symbols"] * 2

    async def test_a_gap_in_the_flushes_is_healed_from_the_hash(self, server: Server) -> None:
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=["BTCUSDT", "ETHUSDT"])
        await client.next("snapshot")
        lost = server.market.prices | {"BTCUSDT": "1.5"}
        await redis_hash_only(server, lost)
        await server.market.flush({"ETHUSDT": "2"})
        seen: dict[str, str] = {}
        while len(seen) < 2:
            update = await client.next("update")
            seen |= {row["symbol"]: row["price"] for row in update["prices"]}
        assert seen == {"BTCUSDT": "1.5", "ETHUSDT": "2"}
        assert server.stream.figures()["price_gaps"] >= 1

    async def test_a_lost_subscription_is_healed(self, server: Server, redis: Redis) -> None:
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=["BTCUSDT"])
        await redis.client_kill_filter(_type="pubsub")
        await server.market.flush({"BTCUSDT": "3"})
        update = await client.next("update")
        assert update["prices"][0]["price"] == "3"


async def redis_hash_only(server: Server, prices: dict[str, str]) -> None:
    """A flush that is in the hash, but whose message was lost: what the subscriber hears is the next number."""
    server.stream.state.board.flush -= 1
    await server.market.flush(prices)
    await until(lambda: server.stream.state.board.flush == server.market.flush_number)


class TestPnl:
    async def test_snapshots_come_as_soon_as_the_state_is_there(self, server: Server) -> None:
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=1, channel="pnl")
        await client.ask("subscribed", type="subscribe", id=2, channel="positions")
        server.market.traders = [trader()]
        await server.market.flush(PRICES, users=[server.market.traders[0].update(full=True)])
        totals, positions = await client.next(), await client.next()
        assert (totals["channel"], positions["channel"]) == ("pnl", "positions")
        rows = {row["symbol"]: row for row in positions["positions"]}
        assert rows["BTCUSDT"]["unrealized_pnl"] == "1500.025"
        assert rows["BTCUSDT"]["strategy"] is None
        assert totals["pnl"]["unrealized_pnl"] == "1501.525"
        assert totals["pnl"]["net_exposure"] == "26001.575"

    async def test_a_snapshot_does_not_wait_for_the_next_turn_of_who_wants_few_updates(self, server: Server) -> None:
        client = await server.connect()
        await client.ask("configured", type="configure", id=9, max_hz=0.1)
        await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=["BTCUSDT"])
        await client.ask("subscribed", type="subscribe", id=2, channel="pnl")
        await server.market.flush(PRICES)
        await client.next("update")
        server.market.traders = [trader()]
        await server.market.flush(PRICES, users=[server.market.traders[0].update(full=True)])
        async with asyncio.timeout(6):
            assert (await client.next("snapshot"))["channel"] == "pnl"

    async def test_rows_and_total_of_each_update_add_up(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        known: dict[str, Decimal] = {"alice-btc": Decimal("1500.025"), "alice-eth": Decimal("1.5")}
        for step in range(1, 4):
            await server.market.flush({"BTCUSDT": f"{67000 + step}.3", "ETHUSDT": f"{2499 - step}.7"})
            update = await client.next("update")
            known |= {row["position_id"]: Decimal(row["unrealized_pnl"]) for row in update["positions"]}
            assert sum(known.values()) == Decimal(update["pnl"]["unrealized_pnl"])

    async def test_sequence_numbers_increase(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        places = []
        for step in range(5):
            await server.market.flush({"BTCUSDT": str(67000 + step)})
            update = await client.next("update")
            places.append((update["epoch"], update["seq"]))
        assert places == sorted(set(places))

    async def test_two_users_see_only_their_own(self, server: Server) -> None:
        server.market.traders = [trader("alice", 0), trader("bob", 1)]
        alice, bob = await server.connect("alice-1"), await server.connect("bob-1")
        await server.market.flush(PRICES, users=[one.update(full=True) for one in server.market.traders])
        for client in (alice, bob):
            await client.say(type="subscribe", id=1, channel="pnl")
            await client.say(type="subscribe", id=2, channel="positions")
        for _ in range(5):
            await server.market.flush({"BTCUSDT": str(67000 + _)})
            await alice.next("update")
            await bob.next("update")
        for client, user in ((alice, "alice"), (bob, "bob")):
            ids = {row["position_id"] for frame in client.frames for row in frame.get("positions", [])}
            assert ids == {f"{user}-btc", f"{user}-eth"}

    async def test_a_new_book_epoch_brings_snapshots(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        server.market.book_epoch += 1
        server.market.sequence = 0
        again = Trader("alice", 77, {5: position("alice-new", "BTCUSDT", "1", "1")})
        server.market.traders = [again]
        await server.market.flush({"BTCUSDT": "3"}, users=[again.update(full=True)])
        totals, positions = await client.next("snapshot"), await client.next("snapshot")
        assert totals["pnl"]["unrealized_pnl"] == "2"
        assert [row["position_id"] for row in positions["positions"]] == ["alice-new"]

    async def test_figures_of_an_older_book_epoch_are_not_shown(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        forged = pnl_flush(99, 99, server.market.traders, {"BTCUSDT": "1", "ETHUSDT": "1"}, book_epoch=2)
        await server.market.send(forged)
        await server.market.flush({"BTCUSDT": "67000.15"})
        await until(lambda: server.stream.figures()["old_epochs"] == 1)
        await server.market.flush({"BTCUSDT": "67001.15"})
        shown = ""
        while shown != "1502.025":
            shown = (await client.next("update"))["pnl"]["unrealized_pnl"]
            assert shown in {"1501.525", "1502.025"}

    async def test_a_hole_asks_for_everything_and_ends_in_snapshots(self, server: Server, redis: Redis) -> None:
        client = await pnl_subscriber(server)
        async with redis.pubsub() as interest:
            await interest.subscribe(keys.INTEREST_CHANNEL)
            server.market.sequence += 1
            await server.market.flush({"BTCUSDT": "67001.15"})
            await until(lambda: server.stream.figures()["pnl_holes"] == 1)
            await heard_reset(interest)
        await server.market.everything()
        totals = await client.next("snapshot")
        assert totals["pnl"]["unrealized_pnl"] == "1502.025"

    async def test_an_opened_and_a_closed_position_come_whole(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        one = server.market.traders[0]
        gone = closed(one.held.pop(1), "67000.15")
        one.gone.append(gone)
        one.held[3] = position("alice-new", "ETHUSDT", "1", "2000")
        news = one.update(full=False, rows=[row_update(1, gone), row_update(3, one.held[3])], removed=[1])
        await server.market.pnl(users=[news], revision=1)
        update = await client.next("update")
        rows = {row["position_id"]: row for row in update["positions"]}
        assert rows["alice-btc"]["status"] == "closed"
        assert rows["alice-new"]["quantity"] == "1"
        live = [Decimal(row["unrealized_pnl"]) for row in rows.values() if row["position_id"] != "alice-eth"]
        assert sum(live) + Decimal("1.5") == Decimal(update["pnl"]["unrealized_pnl"])

    async def test_a_user_the_pnl_worker_does_not_tell_about_is_degraded_not_empty(self, server: Server) -> None:
        client = await server.connect("bob-1")
        await client.ask("subscribed", type="subscribe", id=1, channel="pnl")
        keeper = asyncio.create_task(keep_flushing(server))
        try:
            status = await client.next("status")
        finally:
            keeper.cancel()
        assert status["degraded"] == ["pnl"]
        assert all(frame["type"] != "snapshot" for frame in client.frames)

    async def test_a_user_who_is_not_told_about_any_more_is_degraded_not_quietly_frozen(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        keeper = asyncio.create_task(keep_flushing(server))
        try:
            server.stream.state.mirror.desynchronise()
            status = await client.next("status")
        finally:
            keeper.cancel()
        assert status["degraded"] == ["pnl"]

    async def test_silence_of_the_price_worker_is_told_and_marks_everything_stale(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=["BTCUSDT"])
        while "prices" not in (status := await client.next("status"))["degraded"]:
            pass
        assert status["feed"]["state"] == "down"
        update = client.frames[-1] if client.frames[-1]["type"] == "update" else await client.next("update")
        assert update["pnl"]["is_stale"] is True
        assert update["prices"][0]["is_stale"] is True


class TestSnapshots:
    async def test_rows_that_a_snapshot_has_shown_are_not_sent_again(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        await server.market.flush({"BTCUSDT": "68000"})
        update = await client.next("update")
        assert update["positions"]
        assert all("entry_price" not in row for row in update["positions"])


async def keep_flushing(server: Server) -> None:
    while True:
        await server.market.flush()
        await asyncio.sleep(0.1)


async def heard_reset(interest: Any) -> None:
    async with asyncio.timeout(5):
        async for message in interest.listen():
            if message["type"] == "message" and b"gone\xc3" in message["data"]:
                return


class TestConfigure:
    async def test_the_rate_is_granted_within_the_limit(self, server: Server) -> None:
        client = await server.connect()
        reply = await client.ask("configured", type="configure", id=6, max_hz=50, visible=True)
        assert reply == {"type": "configured", "id": 6, "max_hz": 10, "visible": True}
        reply = await client.ask("configured", type="configure", id=7, max_hz=0.5)
        assert reply["max_hz"] == 0.5

    async def test_a_slow_client_gets_merged_frames(self, server: Server) -> None:
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=["BTCUSDT"])
        await client.ask("configured", type="configure", id=2, max_hz=2)
        for step in range(12):
            await server.market.flush({"BTCUSDT": str(100 + step)})
            await asyncio.sleep(0.05)
        merged = 0
        while (update := await client.next("update"))["prices"][0]["price"] != "111":
            merged += update["merged"]
        assert update["merged"] > 2
        assert merged + update["merged"] == 12

    async def test_a_hidden_tab_gets_no_prices_and_a_snapshot_on_return(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=["BTCUSDT"])
        await client.ask("configured", type="configure", id=2, visible=False)
        before = len(client.frames)
        for step in range(3):
            await server.market.flush({"BTCUSDT": str(70000 + step)})
            await asyncio.sleep(0.02)
        await client.ask("configured", type="configure", id=3, visible=True)
        assert all("prices" not in frame for frame in client.frames[before:])
        snapshots = [await client.next("snapshot") for _ in range(3)]
        assert [snapshot["channel"] for snapshot in snapshots] == ["prices", "pnl", "positions"]
        assert snapshots[0]["prices"][0]["price"] == "70002"


def notice(seq: int, user: str = "alice") -> EventNotice:
    return EventNotice(user, seq, "fill", datetime.now(UTC), {"number": seq})


class TestEvents:
    async def test_events_are_numbered_and_in_order(self, server: Server) -> None:
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=4, channel="events")
        for seq in (5, 6, 7):
            await server.market.event("alice", seq)
            await server.market.event("bob", seq)
        events = [await client.next("event") for _ in range(3)]
        assert [event["seq"] for event in events] == [5, 6, 7]
        assert events[0]["epoch"] == 1
        assert events[0]["data"] == {"number": 5}
        assert events[0]["kind"] == "fill"

    async def test_a_hole_is_filled_from_the_database(self, server: Server) -> None:
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=4, channel="events")
        server.events.of["alice"] = [notice(seq) for seq in range(1, 9)]
        await server.market.event("alice", 5)
        await server.market.event("alice", 8)
        assert [(await client.next("event"))["seq"] for _ in range(4)] == [5, 6, 7, 8]

    async def test_a_hole_that_cannot_be_read_holds_later_events_back(self, server: Server) -> None:
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=4, channel="events")
        server.events.of["alice"] = [notice(seq) for seq in range(1, 8)]
        server.events.is_reachable = False
        await server.market.event("alice", 5)
        await server.market.event("alice", 7)
        assert (await client.next("event"))["seq"] == 5
        pong = await client.ask("pong", type="ping", id=9)
        assert pong["id"] == 9
        server.events.is_reachable = True
        assert [(await client.next("event"))["seq"] for _ in range(2)] == [6, 7]

    async def test_an_event_follows_the_state_that_contains_it(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        reply = await client.ask("subscribed", type="subscribe", id=4, channel="events")
        assert (reply["epoch"], reply["seq"]) == (1, 1)
        before = len(client.frames)
        await server.market.event("alice", 2)
        one = server.market.traders[0]
        one.ledger_seq = 2
        one.held[3] = position("alice-new", "ETHUSDT", "1", "2000")
        await server.market.pnl(users=[one.update(full=False, rows=[row_update(3, one.held[3])])], revision=1)
        await client.next("event")
        assert [frame["type"] for frame in client.frames[before:]] == ["update", "event"]
        assert "alice-new" in {row["position_id"] for row in client.frames[before]["positions"]}

    async def test_an_event_does_not_wait_for_ever_for_its_state(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        await client.ask("subscribed", type="subscribe", id=4, channel="events")
        await server.market.event("alice", 2)
        assert (await client.next("event"))["seq"] == 2

    async def test_a_lost_event_is_found_by_the_state_being_ahead(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        await client.ask("subscribed", type="subscribe", id=4, channel="events")
        server.events.of["alice"] = [notice(1), notice(2)]
        one = server.market.traders[0]
        one.ledger_seq = 2
        await server.market.pnl(users=[one.update(full=False, rows=[])], revision=1)
        assert (await client.next("event"))["seq"] == 2

    async def test_resume_replays_what_was_missed(self, server: Server) -> None:
        server.events.of["alice"] = [notice(seq) for seq in range(1, 6)]
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=1, channel="events")
        await client.say(type="resume", id=7, events={"epoch": 1, "seq": 2})
        frames = [await client.next() for _ in range(4)]
        assert [(frame["type"], frame.get("seq", frame.get("id"))) for frame in frames] == [
            ("event", 3),
            ("event", 4),
            ("event", 5),
            ("resumed", 7),
        ]
        await server.market.event("alice", 6)
        assert (await client.next("event"))["seq"] == 6

    @pytest.mark.parametrize(
        "known",
        [
            pytest.param({"epoch": 2, "seq": 2}, id="another epoch"),
            pytest.param({"epoch": 1, "seq": 9}, id="ahead of the server"),
        ],
    )
    async def test_what_cannot_be_replayed_is_a_resync(self, server: Server, known: dict[str, int]) -> None:
        server.events.of["alice"] = [notice(seq) for seq in range(1, 6)]
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=1, channel="events")
        reply = await client.ask("resync", type="resume", id=7, events=known)
        assert reply == {"type": "resync", "id": 7}

    async def test_too_much_to_replay_is_a_resync(self, server: Server) -> None:
        server.events.of["alice"] = [notice(seq) for seq in range(1, 1200)]
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=1, channel="events")
        await client.ask("resync", type="resume", id=7, events={"epoch": 1, "seq": 2})

    async def test_resuming_without_subscribing_is_an_error(self, server: Server) -> None:
        client = await server.connect()
        error = await client.ask("error", type="resume", id=7, events={"epoch": 1, "seq": 2})
        assert (error["id"], error["code"]) == (7, "not_subscribed")


class TestSessions:
    async def test_the_end_of_a_session_closes_its_sockets_and_no_others(self, server: Server) -> None:
        first, second = await server.connect("alice-1"), await server.connect("alice-2")
        await server.market.end_session("alice", "alice-1")
        assert await first.closed() == Close.SESSION_ENDED
        assert (await second.ask("pong", type="ping", id=1))["id"] == 1

    async def test_the_end_of_all_sessions_closes_all_sockets_of_the_user(self, server: Server) -> None:
        clients = [await server.connect("alice-1"), await server.connect("alice-2")]
        other = await server.connect("bob-1")
        await server.market.end_session("alice", None)
        assert [await client.closed() for client in clients] == [Close.SESSION_ENDED] * 2
        assert (await other.ask("pong", type="ping", id=1))["id"] == 1

    async def test_a_session_whose_end_nobody_announced_is_found(self, redis: Redis) -> None:
        async with serving(redis, sweep_s=0.2) as server:
            client = await server.connect()
            del server.sessions.users["alice-1"]
            assert await client.closed() == Close.SESSION_ENDED

    async def test_a_session_that_reaches_its_end_is_closed(self, server: Server) -> None:
        server.sessions.expires_ms = now_ms() + 500
        client = await server.connect()
        assert await client.closed() == Close.SESSION_ENDED

    async def test_where_sessions_cannot_be_checked_sockets_stay(self, redis: Redis) -> None:
        async with serving(redis, sweep_s=0.05) as server:
            client = await server.connect()
            server.sessions.is_reachable = False
            before = server.sessions.asked
            await until(lambda: server.sessions.asked > before + 3)
            assert (await client.ask("pong", type="ping", id=1))["id"] == 1


class TestRedis:
    async def test_streams_stay_open_without_redis_and_say_so(self) -> None:
        with tempfile.TemporaryDirectory(prefix="tm-") as directory:
            embedded = EmbeddedRedis(Path(directory))
            redis = connect(embedded.start(), 1.0)
            try:
                async with serving(redis) as server:
                    await server.settle()
                    client = await server.connect()
                    embedded.stop()
                    while "redis" not in (await client.next("status"))["degraded"]:
                        pass
                    assert (await client.ask("pong", type="ping", id=1))["id"] == 1
                    embedded.start()
                    while "redis" in (await client.next("status"))["degraded"]:
                        pass
                    await server.settle()
            finally:
                await redis.aclose()
                embedded.stop()


class TestEnds:
    async def test_every_exit_clears_every_map(self, server: Server) -> None:
        clients = [await server.connect("alice-1"), await server.connect("bob-1")]
        for client in clients:
            await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=["BTCUSDT"])
            await client.ask("subscribed", type="subscribe", id=2, channel="events")
        clients[0].socket.transport.abort()
        await clients[1].socket.close()
        await until(lambda: len(server.stream.manager) == 0)
        assert server.stream.state.watched == {}
        assert server.stream.manager.symbols() == set()

    async def test_draining_tells_everybody_when_to_come_back(self, server: Server) -> None:
        clients = [await server.connect() for _ in range(3)]
        await server.stream.drain(0.2)
        assert [await client.closed() for client in clients] == [Close.DRAINING] * 3
        for client in clients:
            assert 0 <= client.frames[-1]["reconnect_after_ms"] <= 200
            assert client.frames[-1]["type"] == "going_away"

    async def test_a_returning_user_within_moments_needs_nothing_sent_again(self, server: Server) -> None:
        client = await pnl_subscriber(server)
        await client.socket.close()
        await until(lambda: len(server.stream.manager) == 0)
        again = await server.connect()
        await again.ask("subscribed", type="subscribe", id=1, channel="pnl")
        assert (await again.next())["pnl"]["unrealized_pnl"] == "1501.525"
