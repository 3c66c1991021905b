"""The contract with every client. Changing a frame here is a breaking change."""

from typing import Any, get_args

import pytest

from app.domain import protocol
from app.domain.prices import Feed
from app.domain.protocol import ClientMessage, Close, InvalidMessage, ServerMessage, SymbolResult, decode, encode

FEED = Feed(state="live", source="binance", age_ms=41)

CLIENT_FRAMES: list[tuple[str, ClientMessage]] = [
    (
        '{"type":"subscribe","id":1,"channel":"prices","symbols":["BTCUSDT","NOPE"]}',
        protocol.Subscribe(id=1, channel="prices", symbols=["BTCUSDT", "NOPE"]),
    ),
    ('{"type":"subscribe","id":2,"channel":"pnl"}', protocol.Subscribe(id=2, channel="pnl")),
    (
        '{"type":"unsubscribe","id":5,"channel":"prices","symbols":["BTCUSDT"]}',
        protocol.Unsubscribe(id=5, channel="prices", symbols=["BTCUSDT"]),
    ),
    ('{"type":"configure","id":6,"max_hz":10,"visible":true}', protocol.Configure(id=6, max_hz=10, visible=True)),
    (
        '{"type":"resume","id":7,"events":{"epoch":7,"seq":58}}',
        protocol.Resume(id=7, events=protocol.EventPosition(epoch=7, seq=58)),
    ),
    ('{"type":"ping","id":8}', protocol.Ping(id=8)),
]

SERVER_FRAMES: list[tuple[ServerMessage, bytes]] = [
    (
        protocol.Hello(
            protocol=1,
            connection_id="c1",
            user_id="u1",
            server_time_ms=1,
            session_expires_ms=2,
            heartbeat_ms=15000,
            limits=protocol.Limits(max_symbols=200, max_message_bytes=4096, max_messages_per_second=20, max_hz=10),
            max_hz=4,
            feed=FEED,
        ),
        b'{"type":"hello","protocol":1,"connection_id":"c1","user_id":"u1","server_time_ms":1,"session_expires_ms":2,'
        b'"heartbeat_ms":15000,"limits":{"max_symbols":200,"max_message_bytes":4096,"max_messages_per_second":20,'
        b'"max_hz":10},"max_hz":4,"feed":{"state":"live","source":"binance","age_ms":41,"simulated":false}}',
    ),
    (
        protocol.Subscribed(
            id=1,
            channel="prices",
            results=[
                SymbolResult(symbol="BTCUSDT", ok=True),
                SymbolResult(symbol="NOPE", ok=False, code="unknown_symbol"),
            ],
        ),
        b'{"type":"subscribed","id":1,"channel":"prices","results":[{"symbol":"BTCUSDT","ok":true},'
        b'{"symbol":"NOPE","ok":false,"code":"unknown_symbol"}]}',
    ),
    (protocol.Subscribed(id=2, channel="pnl"), b'{"type":"subscribed","id":2,"channel":"pnl"}'),
    (
        protocol.Subscribed(id=4, channel="events", epoch=1, seq=58),
        b'{"type":"subscribed","id":4,"channel":"events","epoch":1,"seq":58}',
    ),
    (protocol.Unsubscribed(id=5, channel="positions"), b'{"type":"unsubscribed","id":5,"channel":"positions"}'),
    (
        protocol.Configured(id=6, max_hz=10, visible=True),
        b'{"type":"configured","id":6,"max_hz":10,"visible":true}',
    ),
    (protocol.Resumed(id=7), b'{"type":"resumed","id":7}'),
    (protocol.Resync(id=7), b'{"type":"resync","id":7}'),
    (protocol.Pong(id=8, server_time_ms=3), b'{"type":"pong","id":8,"server_time_ms":3}'),
    (
        protocol.Status(feed=Feed(state="stale", source="binance", age_ms=6200), degraded=["redis"]),
        b'{"type":"status","feed":{"state":"stale","source":"binance","age_ms":6200,"simulated":false},'
        b'"degraded":["redis"]}',
    ),
    (
        protocol.Error(id=9, code="unknown_channel", title="Unknown channel", detail="d"),
        b'{"type":"error","id":9,"code":"unknown_channel","title":"Unknown channel","detail":"d"}',
    ),
    (
        protocol.Error(id=None, code="malformed", title="Malformed message", detail="d"),
        b'{"type":"error","id":null,"code":"malformed","title":"Malformed message","detail":"d"}',
    ),
    (protocol.GoingAway(reconnect_after_ms=1500), b'{"type":"going_away","reconnect_after_ms":1500}'),
    (
        protocol.Event(epoch=1, seq=58, kind="fill", at_ms=1000, data={"quantity": "0.5"}),
        b'{"type":"event","epoch":1,"seq":58,"kind":"fill","at_ms":1000,"data":{"quantity":"0.5"}}',
    ),
    (
        protocol.Snapshot(
            channel="prices",
            epoch=7,
            seq=1041,
            as_of_ms=5,
            prices=[
                protocol.PriceRow(
                    symbol="BTCUSDT",
                    price="67000.15",
                    bid="67000.10",
                    ask="67000.20",
                    last=None,
                    event_ms=3,
                    received_ms=4,
                    fresh_ms=4,
                    is_stale=False,
                )
            ],
        ),
        b'{"type":"snapshot","channel":"prices","epoch":7,"seq":1041,"as_of_ms":5,"prices":[{"symbol":"BTCUSDT",'
        b'"price":"67000.15","bid":"67000.10","ask":"67000.20","last":null,"event_ms":3,"received_ms":4,'
        b'"fresh_ms":4,"is_stale":false}]}',
    ),
    (
        protocol.Update(
            epoch=7,
            seq=1042,
            as_of_ms=5,
            event_ms=3,
            merged=3,
            pnl=protocol.PnlRow(
                unrealized_pnl="12.30",
                realized_pnl="0",
                total_pnl="12.30",
                day_pnl=None,
                equity="12.30",
                is_complete=True,
                is_stale=False,
                unpriced=[],
            ),
            positions=[
                protocol.PositionChange(
                    position_id="p1",
                    symbol="BTCUSDT",
                    mark_price="67001.15",
                    unrealized_pnl="12.30",
                    unrealized_pnl_pct="0.0123",
                    is_stale=False,
                    version=4,
                )
            ],
        ),
        b'{"type":"update","epoch":7,"seq":1042,"as_of_ms":5,"event_ms":3,"merged":3,"pnl":{"unrealized_pnl":"12.30",'
        b'"realized_pnl":"0","total_pnl":"12.30","day_pnl":null,"equity":"12.30","is_complete":true,"is_stale":false,'
        b'"unpriced":[]},"positions":[{"position_id":"p1","symbol":"BTCUSDT","mark_price":"67001.15",'
        b'"unrealized_pnl":"12.30","unrealized_pnl_pct":"0.0123","is_stale":false,"version":4}]}',
    ),
]


@pytest.mark.parametrize(("frame", "message"), CLIENT_FRAMES)
def test_client_frames(frame: str, message: ClientMessage) -> None:
    assert decode(frame) == message


@pytest.mark.parametrize(("message", "frame"), SERVER_FRAMES)
def test_server_frames(message: ServerMessage, frame: bytes) -> None:
    assert encode(message) == frame


def test_every_message_has_a_golden_frame() -> None:
    assert {type(message) for _, message in CLIENT_FRAMES} == set(get_args(ClientMessage))
    assert {type(message) for message, _ in SERVER_FRAMES} == set(get_args(ServerMessage))


def test_the_names_on_the_wire_are_these() -> None:
    def tags(union: Any) -> set[str]:
        return {kind.__struct_config__.tag for kind in get_args(union)}

    assert tags(ClientMessage) == {"subscribe", "unsubscribe", "configure", "resume", "ping"}
    assert tags(ServerMessage) == {
        "hello",
        "subscribed",
        "unsubscribed",
        "configured",
        "resumed",
        "resync",
        "pong",
        "status",
        "error",
        "going_away",
        "snapshot",
        "update",
        "event",
    }
    assert protocol.CHANNELS == ("prices", "pnl", "positions", "events")
    assert protocol.SUBPROTOCOL == "tidemark.v1.json"


def test_the_close_codes_are_these() -> None:
    assert {code.name: int(code) for code in Close} == {
        "NORMAL": 1000,
        "GOING_AWAY": 1001,
        "INVALID_TEXT": 1007,
        "POLICY": 1008,
        "TOO_BIG": 1009,
        "INTERNAL_ERROR": 1011,
        "RESTART": 1012,
        "NOT_AUTHENTICATED": 4001,
        "FORBIDDEN": 4003,
        "SESSION_ENDED": 4004,
        "SLOW_CONSUMER": 4100,
        "RATE_LIMITED": 4101,
        "TOO_MANY_CONNECTIONS": 4102,
        "DRAINING": 4200,
    }


@pytest.mark.parametrize(
    ("frame", "code", "request_id"),
    [
        pytest.param('{"type":"unsuscribe","id":1,"channel":"pnl"}', "unknown_type", 1, id="misspelt"),
        pytest.param(
            '{"type":"subscribe","id":1,"channel":"pnl","admin":true}', "invalid_message", 1, id="extra field"
        ),
        pytest.param('{"type":"update","id":1}', "unknown_type", 1, id="a server message from a client"),
        pytest.param('{"type":"subscribe","id":1,"channel":"prices","symbols":[]}', "invalid_message", 1, id="empty"),
        pytest.param('{"type":"ping","id":9007199254740992}', "invalid_message", None, id="an id beyond 2^53"),
        pytest.param('{"type":"ping"', "malformed", None, id="cut off"),
        pytest.param('{"type":"ping","id":1}{}', "malformed", None, id="two messages"),
    ],
)
def test_anything_else_is_invalid(frame: str, code: str, request_id: int | None) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(frame)
    assert (caught.value.code, caught.value.request_id) == (code, request_id)
