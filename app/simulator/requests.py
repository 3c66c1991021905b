"""What a client may ask for over a stream connection, and the errors the exchange answers with."""

import re
from typing import Any, Literal

import msgspec

Id = int | str | None
Method = Literal["SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY"]

_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_STREAM = re.compile(
    r"[\w\-.]{1,50}@[A-Za-z][A-Za-z0-9_]*(?:@[A-Za-z0-9+:]+)*"  # of one symbol
    r"|![A-Za-z][A-Za-z0-9_]*(?:@[A-Za-z0-9]+)*"  # of all of them
)
_STRING_ID = re.compile(r"[A-Za-z0-9-]{1,36}")
_INT64 = range(-(2**63), 2**63)

UNKNOWN_PROPERTY = 0
WRONG_VALUE_TYPE = 1
INVALID_REQUEST = 2
INVALID_JSON = 3


class Request(msgspec.Struct, frozen=True):
    """A request in order. ``reply_id`` is a dictionary with the id, empty when there was none."""

    method: Method
    params: list[Any]
    reply_id: dict[str, Id]


class Refused(Exception):
    """A request that gets an error. ``fatal`` when the exchange then closes the connection."""

    def __init__(self, code: int, message: str, reply_id: dict[str, Id], *, fatal: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reply_id = reply_id
        self.fatal = fatal


def read_request(text: bytes, *, integer_ids: bool = False) -> Request:
    """Read a request. Raises Refused. ``integer_ids``: futures take no other ids than unsigned integers."""
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refused(INVALID_JSON, "Invalid JSON: expected value at line 1 column 1", {}) from None
    if not isinstance(document, dict):
        raise Refused(INVALID_REQUEST, "Invalid request: expected an object", {})
    reply_id = _integer_id(document) if integer_ids else _reply_id(document)
    method = document.get("method")
    if method is None:
        raise Refused(
            INVALID_REQUEST, f"Invalid request: missing field `method` at line 1 column {len(text)}", reply_id
        )
    if method not in _METHODS:
        expected = ", ".join(f"`{name}`" for name in _METHODS)
        raise Refused(
            INVALID_REQUEST, f"Invalid request: unknown variant `{method}`, expected one of {expected}", reply_id
        )
    params = document.get("params", [])
    if not isinstance(params, list):
        raise Refused(INVALID_REQUEST, "Invalid request: params must be an array", reply_id)
    return Request(method, params, reply_id)


def _reply_id(document: dict[str, Any]) -> dict[str, Id]:
    if "id" not in document:
        return {}
    match document["id"]:
        case bool():
            pass
        case None:
            return {"id": None}
        case int(number) if number in _INT64:
            return {"id": number}
        case str(text) if _STRING_ID.fullmatch(text):
            return {"id": text}
    message = "Invalid request: request ID must be an integer, a string of at most 36 characters, or null"
    raise Refused(INVALID_REQUEST, message, {})


def _integer_id(document: dict[str, Any]) -> dict[str, Id]:
    match document.get("id"):
        case bool():
            pass
        case int(number) if 0 <= number < 2**64:
            return {"id": number}
    raise Refused(INVALID_REQUEST, "Invalid request: request ID must be an unsigned integer", {})


def stream_names(request: Request) -> list[str]:
    """The streams of a SUBSCRIBE or UNSUBSCRIBE. Raises Refused, fatally for a malformed name."""
    if not request.params:
        raise Refused(INVALID_REQUEST, "Invalid request: missing stream", request.reply_id)
    for name in request.params:
        if not isinstance(name, str) or not is_stream_name(name):
            raise Refused(INVALID_REQUEST, "Invalid request: invalid stream", request.reply_id, fatal=True)
    return list(request.params)


def is_stream_name(name: str) -> bool:
    """Whether a name has the form of a stream, of whatever symbol and kind."""
    return _STREAM.fullmatch(name) is not None


def property_change(request: Request) -> bool:
    """The value of SET_PROPERTY ["combined", value]. Raises Refused."""
    if len(request.params) > 2:
        raise Refused(INVALID_REQUEST, "Invalid request: too many parameters", request.reply_id)
    property_name(request)
    value = request.params[1] if len(request.params) == 2 else None
    if not isinstance(value, bool):
        raise Refused(WRONG_VALUE_TYPE, "Invalid value type: expected Boolean", request.reply_id)
    return value


def property_name(request: Request) -> str:
    """The property that GET_PROPERTY or SET_PROPERTY names. Raises Refused."""
    if request.method == "GET_PROPERTY" and len(request.params) > 1:
        raise Refused(INVALID_REQUEST, "Invalid request: too many parameters", request.reply_id)
    name = request.params[0] if request.params else None
    if not isinstance(name, str):
        raise Refused(INVALID_REQUEST, "Invalid request: property name must be a string", request.reply_id)
    if name != "combined":
        raise Refused(UNKNOWN_PROPERTY, "Unknown property", request.reply_id)
    return name


def result_reply(result: object, reply_id: dict[str, Id]) -> bytes:
    """The answer to a request that was understood."""
    return msgspec.json.encode({"result": result, **reply_id})


def error_reply(refused: Refused) -> bytes:
    """The answer to one that was not."""
    return msgspec.json.encode({"error": {"code": refused.code, "msg": refused.message}, **refused.reply_id})
