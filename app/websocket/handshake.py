"""The opening of a WebSocket as bytes: RFC 6455 §4.2, for a request whose head has been read as HTTP already."""

import base64
import binascii
import email.utils
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import unquote

from websockets.utils import accept_key

_MOST_HEADERS: Final = 128
_LONGEST_LINE: Final = 8190
_VERSION: Final = b"13"

STREAM_PATH: Final = "/api/v1/stream"

_LONGEST_PLAIN: Final = 8190
_PLAIN_HEAD: Final = re.compile(
    rb"GET " + STREAM_PATH.encode() + rb"(?:\?[!-~]*)? HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)+)\r\n"
)
_UNUSUAL: Final = frozenset({"content-length", "transfer-encoding", "expect"})

Headers = list[tuple[bytes, bytes]]


class BadHandshake(Exception):
    """The request does not open a WebSocket. ``status`` says why."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Opening(NamedTuple):
    """What a client asks for."""

    path: str
    raw_path: bytes
    query: bytes
    headers: Headers
    accept: str
    subprotocols: list[str]


class PlainOpening(NamedTuple):
    """An opening of the stream as every browser sends it: each header once, by its name in lower case."""

    headers: dict[str, str]
    accept: str
    subprotocols: list[str]
    rest: bytes
    """What was sent after it."""


def read_plain_opening(data: bytes) -> PlainOpening | None:
    """Read the whole head of a request to open the stream, where there is nothing to object to; else None.

    Narrower than HTTP: what is not read here is read by the server's parser, which answers what is wrong with it.
    """
    found = _PLAIN_HEAD.match(data, 0, _LONGEST_PLAIN)
    if found is None:
        return None
    lines = found[1].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip(" \t") for name, _, value in (line.partition(":") for line in lines[:-1])}
    key = headers.get("sec-websocket-key", "").encode("latin-1")
    if len(headers) < len(lines) - 1 or len(lines) > _MOST_HEADERS or not _opens_websocket(headers) or not _is_key(key):
        return None
    offered = headers.get("sec-websocket-protocol", "").split(",")
    subprotocols = [name.strip() for name in offered if name.strip()]
    return PlainOpening(headers, accept_key(key.decode("ascii")), subprotocols, data[found.end() :])


def _opens_websocket(headers: Mapping[str, str]) -> bool:
    tokens = [token.strip() for token in headers.get("connection", "").lower().split(",")]
    is_upgrade = "upgrade" in tokens and headers.get("upgrade", "").lower() == "websocket"
    return is_upgrade and headers.get("sec-websocket-version") == "13" and _UNUSUAL.isdisjoint(headers)


def read_opening(head: bytes) -> Opening:
    """Read the head of a request up to its empty line. Raises BadHandshake."""
    lines = head.split(b"\r\n")
    if len(lines) > _MOST_HEADERS or max(map(len, lines)) > _LONGEST_LINE:
        raise BadHandshake(400, "The head of the request is too large.")
    method, _, rest = lines[0].partition(b" ")
    target = rest.rpartition(b" ")[0]
    headers = [_header(line) for line in lines[1:] if line]
    if method != b"GET" or not target:
        raise BadHandshake(405, "A WebSocket is opened by GET.")
    if _values(headers, b"sec-websocket-version") != [_VERSION]:
        raise BadHandshake(426, "The version of the protocol is 13.")
    raw_path, _, query = target.partition(b"?")
    offered = b",".join(_values(headers, b"sec-websocket-protocol"))
    return Opening(
        path=unquote(raw_path.decode("ascii", "replace")),
        raw_path=raw_path,
        query=query,
        headers=headers,
        accept=_accept(headers),
        subprotocols=[name.strip().decode("latin-1") for name in offered.split(b",") if name.strip()],
    )


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip()


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _accept(headers: Headers) -> str:
    """The answer to the client's key."""
    keys = _values(headers, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise BadHandshake(400, "Sec-WebSocket-Key is missing or wrong.")
    return accept_key(keys[0].decode("ascii"))


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False


def switching(accept: str, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """The answer that opens the WebSocket."""
    said = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    said += f"Sec-WebSocket-Accept: {accept}\r\n"
    if subprotocol is not None:
        said += f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    return said.encode("latin-1") + _lines(headers) + b"\r\n"


def denial(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """The answer that does not."""
    sent = list(headers)
    known = {name.lower() for name, _ in sent}
    usual = {
        b"date": email.utils.formatdate(usegmt=True).encode(),
        b"content-type": b"text/plain; charset=utf-8",
        b"content-length": str(len(body)).encode(),
        b"connection": b"close",
    }
    if status == HTTPStatus.UPGRADE_REQUIRED:
        usual[b"sec-websocket-version"] = _VERSION
    sent += [(name, value) for name, value in usual.items() if name not in known]
    return f"HTTP/1.1 {status} {_phrase(status)}\r\n".encode() + _lines(sent) + b"\r\n" + body


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([name + b": " + value + b"\r\n" for name, value in headers])


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
