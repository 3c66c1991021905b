"""The AsyncAPI document of the stream, generated from the message types themselves."""

from functools import cache
from typing import Any, get_args

import msgspec

from app.domain import protocol

_PATH = "/api/v1/stream"

_MEANINGS = {
    protocol.Close.NORMAL: "Closed by the client.",
    protocol.Close.GOING_AWAY: "The page went away.",
    protocol.Close.INVALID_TEXT: "A message was not UTF-8.",
    protocol.Close.POLICY: "Too many messages that are not in the protocol. Do not retry unchanged.",
    protocol.Close.TOO_BIG: "A message was larger than limits.max_message_bytes. Do not retry unchanged.",
    protocol.Close.INTERNAL_ERROR: "A bug, or no answer to pings. Retry with back-off.",
    protocol.Close.RESTART: "The server stops. Retry at once, with jitter.",
    protocol.Close.NOT_AUTHENTICATED: "Not authenticated. Log in before retrying.",
    protocol.Close.FORBIDDEN: "Not allowed. Do not retry.",
    protocol.Close.SESSION_ENDED: "The session ended. Log in before retrying.",
    protocol.Close.SLOW_CONSUMER: "Did not read, or events could not be completed. Retry with back-off, then resume.",
    protocol.Close.RATE_LIMITED: "Too many messages. Retry with back-off.",
    protocol.Close.TOO_MANY_CONNECTIONS: "Too many connections of this user. Retry with back-off.",
    protocol.Close.DRAINING: "The server is draining. Retry after the delay that going_away gave.",
}

_REPLIES = {
    "subscribe": ("subscribed", "error"),
    "unsubscribe": ("unsubscribed", "error"),
    "configure": ("configured", "error"),
    "resume": ("resumed", "resync", "error"),
    "ping": ("pong", "error"),
}


@cache
def document() -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(_document())


def _document() -> dict[str, Any]:
    spoken = get_args(protocol.ClientMessage)
    heard = get_args(protocol.ServerMessage)
    _, schemas = msgspec.json.schema_components([*spoken, *heard], ref_template="#/components/schemas/{name}")
    messages = {_tag(kind): _message(kind) for kind in (*spoken, *heard)}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tidemark stream",
            "version": str(protocol.PROTOCOL_VERSION),
            "description": _description(),
        },
        "defaultContentType": "application/json",
        "channels": {
            "stream": {
                "address": _PATH,
                "description": f"One WebSocket, subprotocol {protocol.SUBPROTOCOL}.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            }
        },
        "operations": {
            **{_tag(kind): _request(kind) for kind in spoken},
            "serve": {
                "action": "send",
                "channel": {"$ref": "#/channels/stream"},
                "summary": "What the server says by itself.",
                "messages": [_channel_message(name) for name in ("hello", "snapshot", "update", "event", "status")]
                + [_channel_message("going_away")],
            },
        },
        "components": {"messages": messages, "schemas": schemas},
        "x-close-codes": {str(int(code)): meaning for code, meaning in _MEANINGS.items()},
    }


def _request(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """An operation: the server receives a request, and replies."""
    name = _tag(kind)
    return {
        "action": "receive",
        "channel": {"$ref": "#/channels/stream"},
        "summary": _summary(kind),
        "messages": [_channel_message(name)],
        "reply": {
            "channel": {"$ref": "#/channels/stream"},
            "messages": [_channel_message(reply) for reply in _REPLIES[name]],
        },
    }


def _message(kind: type[msgspec.Struct]) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": _tag(kind),
        "summary": _summary(kind),
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
    }
    if "id" in kind.__struct_fields__:
        message["correlationId"] = {"location": "$message.payload#/id"}
    return message


def _channel_message(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/stream/messages/{name}"}


def _tag(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)


def _summary(kind: type[msgspec.Struct]) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _description() -> str:
    codes = "\n".join(f"* {int(code)}: {meaning}" for code, meaning in _MEANINGS.items())
    return (
        f"Prices, P&L, positions and events, live. Newest values only; events without a hole.\n\nClose codes:\n{codes}"
    )
