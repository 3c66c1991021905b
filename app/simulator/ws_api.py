"""As much of the WebSocket API as a connection without an account can use: ``ping`` and ``time``."""

from typing import Any

import msgspec


def api_reply(text: bytes, now_ms: int, weight_per_minute: int) -> bytes:
    """The answer to one request."""
    try:
        request = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError:
        request = {}
    return msgspec.json.encode(
        {
            "id": request.get("id"),
            **_outcome(request.get("method"), now_ms),
            "rateLimits": [
                {
                    "rateLimitType": "REQUEST_WEIGHT",
                    "interval": "MINUTE",
                    "intervalNum": 1,
                    "limit": weight_per_minute,
                    "count": 1,
                }
            ],
        }
    )


def _outcome(method: object, now_ms: int) -> dict[str, Any]:
    match method:
        case "ping":
            return {"status": 200, "result": {}}
        case "time":
            return {"status": 200, "result": {"serverTime": now_ms}}
        case str():
            return {"status": 400, "error": {"code": -1000, "msg": "This method is not part of the simulation."}}
        case _:
            return {"status": 400, "error": {"code": -1135, "msg": "Invalid JSON Request"}}
