"""One connection, and the rules that cost others outages."""

import asyncio
import socket
from collections.abc import Callable

import msgspec
import pytest

from app.exchanges.binance.connection import ConnectionLost, StreamConnection
from app.exchanges.binance.liveness import ConnectionState
from app.exchanges.binance.messages import Malformed
from app.exchanges.binance.subscriptions import Refusals
from app.exchanges.binance.timing import Timing
from tests.exchanges.fake_exchange import FakeExchange
from tests.exchanges.waiting import eventually, running

PATIENT = Timing(open_s=2, ack_s=5, first_data_s=5, stale_s=5, data_age_s=5, silence_s=5, close_s=0.2)


class Received:
    """Takes what the streams bring."""

    def __init__(self) -> None:
        self.data: list[tuple[str, bytes]] = []
        self.malformed_count = 0

    def receive(self, stream: str, data: msgspec.Raw) -> None:
        if stream == "nobody@asked":
            raise Malformed(stream)
        self.data.append((stream, bytes(data)))

    def malformed(self) -> None:
        self.malformed_count += 1


class Client:
    """A connection with its surroundings."""

    def __init__(self, url: str, timing: Timing, *streams: str) -> None:
        self.streams = set(streams)
        self.received = Received()
        self.refusals = Refusals()
        self.ready_count = 0
        self.connection = StreamConnection(
            url, lambda: self.streams, self.received, timing, self.refusals, self._on_ready
        )

    def _on_ready(self) -> None:
        self.ready_count += 1


Connect = Callable[..., Client]


@pytest.fixture
def client(exchange: FakeExchange) -> Connect:
    def make(timing: Timing = PATIENT, streams: tuple[str, ...] = ("!miniTicker@arr",)) -> Client:
        return Client(exchange.stream_url, timing, *streams)

    return make


async def ending(client: Client) -> str:
    async with asyncio.timeout(5):
        lost = await client.connection.run()
    assert client.connection.state is ConnectionState.CLOSED
    return str(lost)


async def test_it_subscribes_with_integer_ids_on_the_combined_address(exchange: FakeExchange, client: Connect) -> None:
    one = client()
    async with running(one.connection.run()):
        await eventually(one.connection.ready.is_set)

    request = exchange.latest.socket.request
    assert request is not None
    assert request.path == "/stream"
    assert exchange.latest.requests == [{"method": "SUBSCRIBE", "params": ["!miniTicker@arr"], "id": 1}]


async def test_it_goes_from_open_over_acknowledged_to_live(exchange: FakeExchange, client: Connect) -> None:
    exchange.ticks_at_once = False
    exchange.answer = lambda session, request: None
    one = client()
    assert one.connection.state is ConnectionState.CONNECTING
    async with running(one.connection.run()):
        await eventually(lambda: exchange.sessions and exchange.latest.requests)
        assert one.connection.state is ConnectionState.OPEN
        await exchange.latest.send_raw('{"result":null,"id":1}')
        await eventually(lambda: one.connection.state is ConnectionState.ACKED)
        assert not one.connection.live.is_set()
        await exchange.latest.send("!miniTicker@arr", [])
        await eventually(one.connection.live.is_set)
        assert one.connection.state is ConnectionState.LIVE


async def test_acknowledged_but_silent_is_not_healthy(exchange: FakeExchange, client: Connect) -> None:
    exchange.ticks_at_once = False
    one = client(msgspec.structs.replace(PATIENT, first_data_s=0.2))

    assert await ending(one) == "no first data arrived"
    assert not one.connection.live.is_set()


async def test_data_that_stops_ends_the_connection(client: Connect) -> None:
    one = client(msgspec.structs.replace(PATIENT, data_age_s=0.2))

    assert await ending(one) == "data stopped arriving"
    assert one.connection.live.is_set()


async def test_a_request_without_an_answer_ends_the_connection(exchange: FakeExchange, client: Connect) -> None:
    exchange.answer = lambda session, request: None
    one = client(msgspec.structs.replace(PATIENT, ack_s=0.2))

    assert await ending(one) == "a request was not answered"


async def test_silence_ends_the_connection_but_pings_are_a_sign_of_life(
    exchange: FakeExchange, client: Connect
) -> None:
    one = client(msgspec.structs.replace(PATIENT, silence_s=0.3))
    async with running(one.connection.run()) as task:
        await eventually(one.connection.ready.is_set)
        for _ in range(10):
            await exchange.latest.socket.ping()
            await asyncio.sleep(0.05)
        assert not task.done()
        await eventually(task.done)
        assert str(task.result()) == "no frame of any kind arrived"


async def test_a_pong_repeats_the_payload_of_its_ping(exchange: FakeExchange, client: Connect) -> None:
    one = client()
    async with running(one.connection.run()):
        await eventually(one.connection.ready.is_set)
        answered = await exchange.latest.socket.ping(b"1770123456789")
        async with asyncio.timeout(5):
            await answered  # only a pong with this very payload resolves it


async def test_control_messages_are_paced_and_pongs_count(exchange: FakeExchange, client: Connect) -> None:
    window = 0.3
    timing = msgspec.structs.replace(PATIENT, batch=1, control_window_s=window)
    one = client(timing, tuple(f"s{n}@bookTicker" for n in range(10)))
    async with running(one.connection.run()):
        await eventually(lambda: exchange.sessions)
        await (await exchange.latest.socket.ping())
        ping_at = asyncio.get_running_loop().time()
        await eventually(one.connection.ready.is_set)

    # Binance allows 5. Measured where they arrive, so a little may be compressed on the way.
    times = sorted([*exchange.latest.control_times, ping_at])
    assert all(sum(start <= at < start + 0.9 * window for at in times) <= 5 for start in times)
    assert len(exchange.latest.control_times) == 10


async def test_streams_are_asked_for_in_batches(exchange: FakeExchange, client: Connect) -> None:
    one = client(msgspec.structs.replace(PATIENT, batch=200), tuple(f"s{n}@aggTrade" for n in range(450)))
    async with running(one.connection.run()):
        await eventually(one.connection.ready.is_set)

    assert [len(request["params"]) for request in exchange.latest.requests] == [200, 200, 50]
    assert len(exchange.latest.streams) == 450


async def test_a_change_of_interest_is_a_change_of_subscriptions(exchange: FakeExchange, client: Connect) -> None:
    one = client()
    async with running(one.connection.run()):
        await eventually(one.connection.ready.is_set)
        one.streams.add("btcusdt@bookTicker")
        one.connection.wake()
        await eventually(lambda: one.ready_count == 2)
        assert exchange.latest.streams == {"!miniTicker@arr", "btcusdt@bookTicker"}
        one.streams.discard("btcusdt@bookTicker")
        one.connection.wake()
        await eventually(lambda: exchange.latest.streams == {"!miniTicker@arr"})


async def test_a_malformed_name_in_a_batch_is_found_and_the_others_are_subscribed(
    exchange: FakeExchange, client: Connect
) -> None:
    """The exchange answers it with an error and a close."""

    def answer(session: object, request: dict[str, object]) -> dict[str, object]:
        params = request["params"]
        assert isinstance(params, list)
        if "bad name" in params:
            return {"error": {"code": 2, "msg": "Invalid request: invalid stream"}, "id": request["id"]}
        return {"result": None, "id": request["id"]}

    exchange.answer = answer
    one = client(PATIENT, ("bad name", "btcusdt@bookTicker", "ethusdt@bookTicker"))
    async with running(one.connection.run()):
        await eventually(one.connection.ready.is_set)

    assert one.refusals.refused == {"bad name"}
    assert not one.refusals.doubtful


@pytest.mark.parametrize(
    "farewell",
    [
        '{"e":"serverShutdown","E":1770123456789}',
        '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
        '{"event":{"e":"serverShutdown","E":1770123456789}}',
    ],
)
async def test_a_farewell_is_heard_in_each_shape(exchange: FakeExchange, client: Connect, farewell: str) -> None:
    one = client()
    async with running(one.connection.run()):
        await eventually(one.connection.ready.is_set)
        await exchange.latest.send_raw(farewell)
        await eventually(one.connection.going_away.is_set)


async def test_garbage_is_counted_and_the_connection_lives(exchange: FakeExchange, client: Connect) -> None:
    one = client()
    async with running(one.connection.run()):
        await eventually(one.connection.ready.is_set)
        await exchange.latest.send_raw('{"stream":"btcusdt@bookTicker","data":{"u":1,"s"')
        await exchange.latest.send_raw(bytes(range(64)))
        await exchange.latest.send("nobody@asked", {})
        await exchange.latest.send("btcusdt@bookTicker", {"u": 2})
        await eventually(lambda: one.received.malformed_count == 3)
        await eventually(lambda: one.received.data[-1][0] == "btcusdt@bookTicker")


@pytest.mark.parametrize(
    ("status", "headers", "demand_s"),
    [(429, {"Retry-After": "17"}, 17.0), (429, {}, 0.0), (403, {}, 0.0), (418, {}, 120.0)],
)
async def test_a_refused_handshake_says_how_long_to_keep_away(
    exchange: FakeExchange, client: Connect, status: int, headers: dict[str, str], demand_s: float
) -> None:
    exchange.refuse = (status, headers)

    lost = await client().connection.run()

    assert str(lost) == f"refused with status {status}"
    assert lost.retry_after_s == demand_s


async def test_a_close_and_a_cut_are_the_end_of_a_connection(exchange: FakeExchange, client: Connect) -> None:
    for cut in (False, True):
        one = client()
        async with running(one.connection.run()) as task:
            await eventually(one.connection.ready.is_set)
            if cut:
                exchange.latest.socket.transport.abort()
            else:
                await exchange.latest.socket.close(1001)
            await eventually(task.done)
            assert isinstance(task.result(), ConnectionLost)


async def test_nobody_listening_is_the_end_of_an_attempt(unused_tcp_port: int) -> None:
    one = Client(f"ws://127.0.0.1:{unused_tcp_port}", PATIENT)

    assert "cannot connect" in await ending(one)


async def test_a_name_that_cannot_be_resolved_is_the_end_of_an_attempt() -> None:
    one = Client("ws://no-such-host.invalid", PATIENT)

    assert "cannot connect" in await ending(one)


async def test_a_handshake_that_hangs_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        one = Client(f"ws://127.0.0.1:{port}", msgspec.structs.replace(PATIENT, open_s=0.2))

        assert "cannot connect" in await ending(one)


async def test_an_error_of_our_own_is_not_taken_for_a_network_error(exchange: FakeExchange, client: Connect) -> None:
    class Broken(Received):
        def receive(self, stream: str, data: msgspec.Raw) -> None:
            raise ZeroDivisionError

    timing, refusals = PATIENT, Refusals()
    connection = StreamConnection(
        exchange.stream_url, lambda: {"!miniTicker@arr"}, Broken(), timing, refusals, lambda: None
    )

    with pytest.raises(ExceptionGroup) as error:
        await connection.run()
    assert error.group_contains(ZeroDivisionError)
