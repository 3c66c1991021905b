"""The compiled fan-out says what Python says, to the byte, to everybody, and leaves to Python what is not ordinary."""

import ctypes
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from app.bus.messages import PriceHead
from app.domain.protocol import Close
from app.websocket import compiled
from app.websocket.admission import Identity
from app.websocket.compiled import LIBRARY, SHARED, Unusable, build, load
from app.websocket.connection import Connection, IsolationBreach, WaitingEvent
from app.websocket.delivery import Delivery
from app.websocket.fanout import Fanout, Turn
from app.websocket.outlet import FULL, NOT_DIRECT
from app.websocket.roster import NEVER, Roster
from app.websocket.state import StreamState
from tests.websocket.market import LIVE, Trader, closed, pnl_flush, position, price, price_flush, row_update

SYMBOLS = [f"S{number}USDT" for number in range(12)]
TOO_LONG = "A" * 120 + "USDT"


SANITIZED = "FANOUT_SANITIZED"
"""Set for the run of these tests in which reading or writing beside a table ends the process."""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler")
    path = tmp_path_factory.mktemp("compiled") / "fanout.compiled"
    if SANITIZED in os.environ:
        build(path, ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", *SHARED])
    else:
        build(path)
    return load(path)


class KeptFrames:
    """An outlet that keeps what it is given; or a socket's, which may not take all of it."""

    def __init__(self, own: socket.socket | None = None) -> None:
        self.frames: list[bytes] = []
        self.rests: list[bytes] = []
        self.own = own
        self.is_behind = False

    def is_full(self) -> bool:
        return self.is_behind

    def descriptor(self) -> int:
        if self.is_behind:
            return FULL
        return NOT_DIRECT if self.own is None else self.own.fileno()

    def send(self, *payloads: bytes) -> None:
        self.frames.extend(payloads)

    def send_rest(self, data: bytes) -> None:
        self.rests.append(data)

    def close(self, code: Close, reason: str) -> None:
        """Nothing to end."""


class CountingDelivery(Delivery):
    """Counts how many were served one by one."""

    asked = 0

    def payloads_of(self, connections: Sequence[Connection], now: float) -> list[list[bytes]]:
        self.asked += len(connections)
        return super().payloads_of(connections, now)


class Side:
    """The same clients, served one way."""

    def __init__(self, state: StreamState, library: ctypes.CDLL | None) -> None:
        self.state = state
        self.roster = Roster()
        self.delivery = CountingDelivery(state)
        self.fanout = Fanout(state, self.roster, self.delivery, library)
        self.clients: dict[str, Connection] = {}

    def enter(self, name: str, user_id: str, outlet: KeptFrames | None = None) -> Connection:
        connection = Connection(name, Identity(user_id, "s", 2**52), None, outlet or KeptFrames(), 10, self.roster)
        connection.sent = self.state.ordinal
        connection.flushes = self.state.flushes
        connection.status = self.state.health.version
        self.roster.begin(connection.seat)
        self.clients[name] = connection
        return connection

    def serve(self, now: float, *, together: int = 7) -> dict[str, list[str]]:
        """What each was sent, by name."""
        seats = np.flatnonzero(self.roster.due != NEVER)
        for first in range(0, len(seats), together):
            self.fanout.serve(seats[first : first + together], now)
        told = {}
        for name, connection in self.clients.items():
            outlet = connection.outlet
            assert isinstance(outlet, KeptFrames)
            told[name] = [frame.decode() for frame in outlet.frames]
            outlet.frames.clear()
        return told


class World:
    """Users whose positions, prices and clients do whatever may happen, served in both ways."""

    def __init__(self, seed: int, library: ctypes.CDLL) -> None:
        self.chance = random.Random(seed)
        self.state = StreamState(stale_after_ms=5000, is_wanted=lambda user: True, now=0.0)
        self.state.load_prices(PriceHead(7, 0, 1, LIVE), {}, 0.0)
        self.now = 1.0
        self.flush = 0
        self.sequence = 0
        self.slots = iter(range(3, 10**6, 2))
        self.prices = {symbol: self.amount() for symbol in SYMBOLS[:-1]}
        self.sides = [Side(self.state, library), Side(self.state, None)]
        self.traders: list[Trader] = []
        for number in range(25):
            self.arrive(number)

    def amount(self) -> str:
        digits = self.chance.choice([2, 5, 9])
        return f"{Decimal(self.chance.randint(1, 10**digits)).scaleb(-self.chance.randint(0, 8)):f}"

    def _position(self, settle: str = "USDT") -> Any:
        symbol = self.chance.choice(SYMBOLS)
        name = f"p{next(self.slots)}"
        if self.chance.random() < 0.02:
            symbol = TOO_LONG
        if settle != "USDT":
            symbol = "ETHBTC"
        quantity = f"{self.chance.choice(['', '-'])}{self.amount()}"
        return position(name, symbol, quantity, self.amount(), settle=settle)

    def told(self, trader: Trader, **how: Any) -> Any:
        """What is said of a trader, whose day's base may be known or not, and his fees all or not."""
        update = trader.update(**how)
        update.figures["day_base"] = self.chance.choice([None, "0", str(10**24 + 7), "-1"])
        return msgspec.structs.replace(update, fees_are_complete=self.chance.random() < 0.8)

    def arrive(self, number: int) -> None:
        held = {next(self.slots): self._position() for _ in range(self.chance.randint(0, 6))}
        if number % 9 == 8:
            held[next(self.slots)] = self._position("BTC")
        trader = Trader(f"u{number}", next(self.slots), held)
        trader.net_deposits = self.chance.choice([0, 0, 10**20 + 1, -5])
        self.traders.append(trader)
        self.move(users=[self.told(trader, full=True)], traders=[trader])
        for copy in range(self.chance.choice([1, 1, 2])):
            name = f"{trader.user_id}-{copy}"
            wants = [self.chance.random() < 0.8 for _ in range(2)]
            symbols = self.chance.sample([*SYMBOLS, TOO_LONG], self.chance.randint(0, 5))
            for side in self.sides:
                connection = side.enter(name, trader.user_id)
                connection.wants_pnl = connection.awaits_pnl = wants[0]
                connection.wants_positions = connection.awaits_positions = wants[1]
                connection.watched = {symbol: self.state.watch(symbol) for symbol in symbols}
                connection.awaits_prices = bool(symbols)

    def move(self, *, users: Any = (), traders: Any = None, revision: int = 0) -> None:
        """A flush: some prices move, and with them everybody who holds them."""
        if not revision:
            self.flush += 1
            moved = self.chance.sample(list(self.prices), self.chance.randint(0, len(self.prices)))
            self.prices.update({symbol: self.amount() for symbol in moved})
            spoken = [price(symbol, self.prices[symbol], fresh_ms=int(self.now * 1000)) for symbol in moved]
            self.state.offer_prices(price_flush(self.flush, spoken, as_of_ms=int(self.now * 1000)), self.now)
        self.sequence += 1
        stale = [symbol for symbol in self.prices if self.chance.random() < 0.02]
        told = self.traders if traders is None else traders
        flush = pnl_flush(
            self.sequence,
            self.flush,
            [trader for trader in told if self.state.view_of(trader.user_id) or users],
            self.prices,
            users=users,
            revision=revision,
            stale=stale,
            rates={"BTC": self.amount()},
        )
        self.state.offer_pnl(flush, self.now)

    def step(self) -> None:
        """Something happens."""
        self.now += self.chance.choice([0.05, 0.1, 0.1, 0.1, 0.4])
        happening = self.chance.choice(
            ["move"] * 8 + ["trade", "close", "hide", "event", "leave", "silence", "watch", "lose", "hold"]
        )
        getattr(self, f"_{happening}")()

    def _move(self) -> None:
        self.move()

    def _hold(self) -> None:
        """No news."""

    def _trade(self) -> None:
        trader = self.chance.choice(self.traders)
        slot = next(self.slots)
        trader.held[slot] = self._position()
        trader.ledger_seq += 1
        self.move(users=[self.told(trader, full=False, rows=[row_update(slot, trader.held[slot])])])

    def _close(self) -> None:
        trader = self.chance.choice(self.traders)
        if not trader.held:
            return
        slot = self.chance.choice(list(trader.held))
        held = trader.held.pop(slot)
        gone = closed(held, self.amount())
        trader.gone.append(gone)
        if self.chance.random() < 0.3:
            self.move(users=[self.told(trader, full=False, rows=[], removed=[slot])])
        else:
            self.move(users=[self.told(trader, full=False, rows=[row_update(slot, gone)])])

    def _hide(self) -> None:
        name = self.chance.choice(list(self.sides[0].clients))
        for side in self.sides:
            connection = side.clients[name]
            connection.visible = not connection.visible

    def _event(self) -> None:
        name = self.chance.choice(list(self.sides[0].clients))
        for side in self.sides:
            connection = side.clients[name]
            seq = connection.event_seq + 1
            connection.queue_event(WaitingEvent(connection.user_id, seq, self.now, f'{{"type":"event","seq":{seq}}}'))

    def _leave(self) -> None:
        """Somebody goes for good, and another takes his seats."""
        if len(self.traders) < 3:
            return
        trader = self.traders.pop(self.chance.randrange(len(self.traders)))
        for side in self.sides:
            for name in [name for name, one in side.clients.items() if one.user_id == trader.user_id]:
                side.roster.leave(side.clients.pop(name))
        self.state.drop(trader.user_id)
        self.arrive(1000 + next(self.slots))

    def _silence(self) -> None:
        self.state.check_silence(self.now + self.chance.choice([0.0, 9.0]))

    def _watch(self) -> None:
        name = self.chance.choice(list(self.sides[0].clients))
        symbol = self.chance.choice(SYMBOLS)
        for side in self.sides:
            connection = side.clients[name]
            if symbol in connection.watched:
                del connection.watched[symbol]
            else:
                connection.watched[symbol] = self.state.watch(symbol)
            connection.is_bound = False

    def _lose(self) -> None:
        """Messages were lost: everybody comes whole again."""
        self.state.desynchronise()
        self.move(users=[self.told(trader, full=True) for trader in self.traders])


@pytest.mark.parametrize("seed", range(12))
def test_compiled_and_not_compiled_say_the_same(seed: int, library: ctypes.CDLL) -> None:
    world = World(seed, library)
    frames = 0
    for _ in range(80):
        world.step()
        fast, slow = (side.serve(world.now) for side in world.sides)
        assert fast == slow
        frames += sum(map(len, fast.values()))
        for texts in fast.values():
            for text in texts:
                json.loads(text)
    one, other = (side.delivery for side in world.sides)
    assert (one.updates, one.merged) == (other.updates, other.merged)
    assert frames > 500


def test_most_frames_are_written_by_compiled_code(library: ctypes.CDLL) -> None:
    world = World(1, library)
    compiled_side = world.sides[0]
    compiled_side.serve(world.now)
    compiled_side.delivery.asked = 0
    frames = 0
    for _ in range(20):
        world.now += 0.1
        world.move()
        frames += sum(map(len, compiled_side.serve(world.now).values()))
    assert compiled_side.delivery.asked < frames / 2


def test_the_comparison_would_find_a_wrong_digit(library: ctypes.CDLL) -> None:
    world = World(2, library)
    for side in world.sides:
        side.serve(world.now)
    figures = world.state.only_lane.mirror.row_unrealized
    world.move()
    figures.table["cost_low"] += np.uint64(10**14)
    fast, slow = (side.serve(world.now) for side in world.sides)
    assert fast != slow


def test_a_row_of_somebody_else_ends_the_process(library: ctypes.CDLL) -> None:
    """Were a seat ever mixed up, nothing may go out."""
    world = World(3, library)
    world.sides[0].serve(world.now)
    holder = next(
        trader for trader in world.traders if trader.held and not any("BTC" in p.symbol for p in trader.held.values())
    )
    other = next(trader for trader in world.traders if trader is not holder)
    view, theirs = world.state.view_of(holder.user_id), world.state.view_of(other.user_id)
    assert view is not None
    assert theirs is not None
    mirror = world.state.only_lane.mirror
    for seat in view.seats_in(mirror.row_unrealized):
        mirror.row_unrealized.table["owner"][seat] = theirs.serial
    world.move()
    with pytest.raises(IsolationBreach):
        world.sides[0].serve(world.now)


def test_a_number_that_leads_out_of_a_table_is_found(library: ctypes.CDLL) -> None:
    world = World(4, library)
    world.sides[0].serve(world.now)
    mirror = world.state.only_lane.mirror
    mirror.row_unrealized.table["mark"][:] = 10**6
    world.move()
    with pytest.raises(IsolationBreach):
        world.sides[0].serve(world.now)


def test_a_user_who_was_replaced_at_his_seat_is_never_shown_to_the_one_before(library: ctypes.CDLL) -> None:
    world = World(5, library)
    side = world.sides[0]
    side.serve(world.now)
    victim = next(one for one in side.clients.values() if one.wants_pnl)
    world.state.drop(victim.user_id)
    world.traders = [trader for trader in world.traders if trader.user_id != victim.user_id]
    newcomer = Trader("new", next(world.slots), {next(world.slots): position("secret", SYMBOLS[0], "1", "1")})
    world.traders.append(newcomer)
    world.move(users=[newcomer.update(full=True)])
    view = world.state.view_of("new")
    assert view is not None
    assert view.seat == victim.user
    told = side.serve(world.now)[victim.connection_id]
    assert not any('"pnl"' in text and "status" not in text for text in told)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def one_client(library: ctypes.CDLL, ours: socket.socket, symbols: int) -> tuple[Side, Connection, KeptFrames]:
    """A client on a socket who watches many symbols, all of which have just moved."""
    state = StreamState(stale_after_ms=5000, is_wanted=lambda user: True, now=0.0)
    state.load_prices(PriceHead(7, 0, 1, LIVE), {}, 0.0)
    side = Side(state, library)
    outlet = KeptFrames(ours)
    connection = side.enter("c", "alice", outlet)
    names = [f"S{number}USDT" for number in range(symbols)]
    connection.watched = {name: state.watch(name) for name in names}
    state.offer_prices(price_flush(1, [price(name, "1.5") for name in names], as_of_ms=1), 0.1)
    state.commit_overdue(1.0)
    assert side.serve(0.0)["c"]
    state.offer_prices(price_flush(2, [price(name, "2.5") for name in names], as_of_ms=2), 1.1)
    state.commit_overdue(2.0)
    return side, connection, outlet


@pytest.mark.parametrize(("symbols", "header"), [(1, 4), (290, 4), (400, 10)])
def test_a_frame_goes_to_the_socket_whole(
    symbols: int, header: int, library: ctypes.CDLL, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    side, connection, outlet = one_client(library, ours, symbols)
    turn: Turn = side.fanout.serve(np.array([connection.seat]), 2.0)
    assert turn.served.tolist() == [connection.seat]
    received = theirs.recv(10**6)
    assert (outlet.frames, outlet.rests) == ([], [])
    lengths = {4: int.from_bytes(received[2:4], "big"), 10: int.from_bytes(received[2:10], "big")}
    assert received[0] == 0x81
    assert len(received) == header + lengths[header]
    assert len(json.loads(received[header:])["prices"]) == symbols


def test_what_a_socket_does_not_take_is_sent_later_and_nothing_twice(
    library: ctypes.CDLL, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    side, connection, outlet = one_client(library, ours, 290)
    side.fanout.serve(np.array([connection.seat]), 2.0)
    first = theirs.recv(10**6)
    assert outlet.frames == []
    (rest,) = outlet.rests
    whole = first + rest
    assert len(json.loads(whole[4:])["prices"]) == 290
    assert len(whole) == 4 + int.from_bytes(whole[2:4], "big")


def test_a_socket_that_is_broken_or_full_leaves_the_whole_frame_to_the_outlet(
    library: ctypes.CDLL, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    side, connection, outlet = one_client(library, ours, 3)
    theirs.close()
    side.fanout.serve(np.array([connection.seat]), 2.0)
    assert outlet.rests == []
    assert len(json.loads(outlet.frames[0])["prices"]) == 3


def test_who_is_behind_keeps_what_he_has_not_seen(
    library: ctypes.CDLL, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    side, connection, outlet = one_client(library, ours, 3)
    outlet.is_behind = True
    turn = side.fanout.serve(np.array([connection.seat]), 2.0)
    assert (turn.full.tolist(), turn.served.tolist()) == ([connection.seat], [])
    outlet.is_behind = False
    side.fanout.serve(np.array([connection.seat]), 2.1)
    assert b'"2.5"' in theirs.recv(10**6)


def test_a_library_of_another_source_or_none_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unusable, match="not built"):
        load(tmp_path / "none.so")
    (tmp_path / "odd.so").write_bytes(b"no library")
    with pytest.raises(Unusable):
        load(tmp_path / "odd.so")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unusable, match="no C compiler"):
        build(tmp_path / "never.so")


def test_where_there_is_a_compiler_the_web_process_has_the_library() -> None:
    """What `make test` sets up is what `make run` sets up."""
    assert shutil.which("cc") is None or LIBRARY.exists()
    if LIBRARY.exists():
        assert compiled.load() is not None


def sanitizers() -> str | None:
    """What is to be loaded before everything else, where the compiler brings it along."""
    compiler = shutil.which("gcc")
    if compiler is None:
        return None
    asked = ("-print-file-name=libasan.so", "-print-file-name=libubsan.so")
    found = [
        subprocess.run([compiler, each], capture_output=True, text=True, check=True).stdout.strip() for each in asked
    ]
    return " ".join(found) if all(Path(each).is_absolute() for each in found) else None


def sanitized(preload: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    loaded = {"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc", SANITIZED: "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **loaded},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.skipif(sanitizers() is None or SANITIZED in os.environ, reason="needs gcc with its sanitizers")
class TestSanitized:
    def test_the_compiled_part_stays_within_its_tables(self) -> None:
        some = "say_the_same and (3 or 7) or socket or leads_out"
        preload = sanitizers() or ""
        done = sanitized(preload, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", some, __file__)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def test_a_table_that_is_shorter_than_it_says_is_noticed(self) -> None:
        """The control of the test before."""
        done = sanitized(sanitizers() or "", "-c", _LYING_TABLE)
        assert done.returncode != 0
        assert "heap-buffer-overflow" in done.stderr


_LYING_TABLE = """
import ctypes, tempfile
from pathlib import Path
import numpy as np
from app.websocket.compiled import OUTCOME, SHARED, StreamRecord, build, load
path = Path(tempfile.mkdtemp()) / "fanout.compiled"
build(path, ["-g", "-O1", "-fsanitize=address,undefined", *SHARED])
library = load(path)
table = np.zeros(64, np.uint8)
stream = StreamRecord()
stream.connections, stream.connections_length = table.ctypes.data, 1
outcomes, seats, out = np.empty(1, OUTCOME), np.zeros(1, np.int32), np.zeros(4096, np.uint8)
library.fanout_write(ctypes.byref(stream), seats.ctypes.data, 1, out.ctypes.data, 4096, 64, outcomes.ctypes.data)
"""
