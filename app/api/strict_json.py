"""Request bodies: JSON that means one thing only, of bounded size, in bounded time."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.api.problems import Problem

_LONGEST_ARRIVAL_S: Final = 10.0
_LONGEST_INTEGER: Final = 20
_DEEPEST_NESTING: Final = 16
_UNDECODED: Final = object()


class StrictRequest(Request):
    """A request whose JSON has no duplicate names, no NaN and no endless numbers."""

    _strict: Any = _UNDECODED

    async def json(self) -> Any:
        if self._strict is _UNDECODED:
            self._strict = _decode(await self.body())
        return self._strict


class StrictRoute(APIRoute):
    """Reads the body before anything else, and refuses what is not JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            own = StrictRequest(request.scope, request.receive)
            await _receive(own)
            if await own.body():
                # FastAPI would replace the reason by a sentence of its own.
                await own.json()
            return await handle(own)

        return strict


async def _receive(request: Request) -> None:
    try:
        async with asyncio.timeout(_LONGEST_ARRIVAL_S):
            body = await request.body()
    except TimeoutError:
        raise Problem("request_timeout", f"The body did not arrive within {_LONGEST_ARRIVAL_S:g} s.") from None
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and media_type != "application/json":
        raise Problem("unsupported_media_type", "Send the body as application/json.")


def _decode(body: bytes) -> Any:
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant, parse_int=_integer
        )
        _refuse_deep(value, _DEEPEST_NESTING)
    except UnicodeDecodeError:
        raise Problem("malformed_request", "The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise Problem("malformed_request", f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    except ValueError as error:
        raise Problem("malformed_request", f"The body is not acceptable JSON: {error}.") from None
    except RecursionError:
        raise Problem("malformed_request", "The body is nested too deeply.") from None
    return value


def _refuse_deep(value: Any, room: int) -> None:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if children and not room:
        raise RecursionError
    for child in children:
        _refuse_deep(child, room - 1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice in one object")
    for name in result:
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise ValueError("a name is not valid Unicode")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        raise ValueError("an integer is too long")
    return int(digits)
