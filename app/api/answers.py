"""Answers in JSON."""

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import Response

_encoder = msgspec.json.Encoder(decimal_format="string")


def encode(body: Any) -> bytes:
    return _encoder.encode(body)


def json_answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer with a JSON body. Bytes are taken as JSON already."""
    content = body if isinstance(body, bytes) else encode(body)
    return Response(content, status, dict(headers or {}), "application/json")
