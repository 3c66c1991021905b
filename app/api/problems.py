"""Errors as RFC 9457 problems: every code there is, and how each reaches the client."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.api.passwords import TooBusy
from app.bus.connection import BusUnavailable
from app.domain.cycles import TooLarge
from app.domain.ledger import ContradictoryFill
from app.repositories.accounts import NameTaken
from app.repositories.books import TooManyLeaves
from app.repositories.chains import ChainTooLong
from app.repositories.database import DatabaseUnavailable
from app.repositories.fills import TooManyPositions
from app.repositories.positions import PositionChanged, StandingAlready
from app.repositories.realized import TooManyFills
from app.repositories.trades import TradeDeleted
from app.repositories.users import UserGone

MEDIA_TYPE: Final = "application/problem+json"

_TYPE_PREFIX: Final = "urn:tidemark:problem:"
_RETRY_AFTER_S: Final = 2

KINDS: Final[Mapping[str, tuple[int, str]]] = {
    "malformed_request": (400, "The request cannot be read"),
    "not_authenticated": (401, "Not authenticated"),
    "wrong_credentials": (401, "Wrong user name or password"),
    "forbidden": (403, "Not allowed"),
    "wrong_origin": (403, "Wrong origin"),
    "registration_closed": (403, "Registration is closed"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "Method not allowed"),
    "request_timeout": (408, "The request did not arrive in time"),
    "username_taken": (409, "This user name is taken"),
    "price_unavailable": (409, "No current price"),
    "position_closed": (409, "The position is closed"),
    "position_exists": (409, "A position stands there already"),
    "too_many_positions": (409, "Too many open positions"),
    "name_taken": (409, "This name is taken"),
    "account_in_use": (409, "The account is in use"),
    "too_many_accounts": (409, "Too many accounts"),
    "too_many_tokens": (409, "Too many tokens"),
    "idempotency_conflict": (409, "The key was used for another request"),
    "import_running": (409, "An import is running"),
    "import_finished": (409, "The import has ended"),
    "trade_deleted": (409, "This trade was deleted"),
    "not_editable": (409, "This trade cannot be changed by hand"),
    "too_many_fills": (409, "Too many fills follow"),
    "version_mismatch": (412, "It has changed meanwhile"),
    "too_large": (413, "The request is too large"),
    "unsupported_media_type": (415, "The media type is not understood"),
    "invalid_request": (422, "The request is not valid"),
    "unknown_symbol": (422, "Unknown symbol"),
    "exceeds_position": (422, "More than is open"),
    "out_of_range": (422, "Too large a figure"),
    "if_match_required": (428, "If-Match is required"),
    "rate_limited": (429, "Too many requests"),
    "internal_error": (500, "Something went wrong here"),
    "unavailable": (503, "Not available at the moment"),
    "busy": (503, "Too busy at the moment"),
    "outcome_unknown": (503, "The outcome is unknown"),
}
"""Every code that a client may meet, with its status and title."""

_BY_STATUS: Final = {
    400: "malformed_request",
    401: "not_authenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}


class Problem(Exception):
    """An error for the client, by one of the codes in KINDS."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status, self.title = KINDS[code]
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})


def field_problem(code: str, field: str, detail: str) -> Problem:
    """A problem with one field of the body."""
    return Problem(code, detail, errors=[_error(("body", field), code, detail)])


def rate_limited(wait_s: float) -> Problem:
    """Told to come back later."""
    seconds = max(1, -int(-wait_s // 1))
    return Problem("rate_limited", f"Try again in {seconds} s.", headers={"Retry-After": str(seconds)})


def unavailable(code: str, detail: str) -> Problem:
    """Told to try again soon."""
    return Problem(code, detail, headers={"Retry-After": str(_RETRY_AFTER_S)})


def problem_response(problem: Problem, request_id: str) -> Response:
    """The answer that a problem is."""
    body: dict[str, Any] = {
        "type": _TYPE_PREFIX + problem.code,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
        "errors": problem.errors,
    }
    return Response(msgspec.json.encode(body), problem.status, problem.headers, MEDIA_TYPE)


def install_problems(app: FastAPI) -> None:
    """Make every expected exception the problem that it means."""
    for exception, translate in _TRANSLATIONS.items():
        app.add_exception_handler(exception, _handler(translate))


def _handler(translate: Any) -> Any:
    async def handle(request: Request, exception: Exception) -> Response:
        return problem_response(translate(exception), request.state.request_id)

    return handle


def _from_http(exception: HTTPException) -> Problem:
    code = _BY_STATUS.get(exception.status_code, "invalid_request" if exception.status_code < 500 else "internal_error")
    detail = exception.detail
    if exception.status_code in {404, 405}:
        detail = HTTPStatus(exception.status_code).description
    return Problem(code, detail, headers=exception.headers)


def _from_validation(exception: RequestValidationError) -> Problem:
    errors = [_error(error["loc"], error["type"], error["msg"]) for error in exception.errors()[:20]]
    places = ", ".join(dict.fromkeys(error["field"] for error in errors))
    return Problem("invalid_request", f"Not valid: {places}.", errors=errors)


def _error(location: Sequence[str | int], code: str, detail: str) -> dict[str, str]:
    """One entry of ``errors``. It never repeats a value: it may be a password."""
    where, *path = location or ("body",)
    names = [str(part)[:64] for part in path]
    error = {"field": ".".join(names) or str(where), "code": code, "detail": detail}
    if where == "body":
        escaped = (name.replace("~", "~0").replace("/", "~1") for name in names)
        return {"pointer": "#" + "".join(f"/{name}" for name in escaped), **error}
    return {"parameter" if where == "query" else str(where): ".".join(names), **error}


def _from_database(exception: DatabaseUnavailable) -> Problem:
    if exception.outcome_unknown:
        return unavailable(
            "outcome_unknown", "The change may or may not have happened. Repeat it with the same Idempotency-Key."
        )
    return unavailable("unavailable", "The database cannot serve at the moment.")


_TRANSLATIONS: Final[Mapping[type[Exception], Any]] = {
    Problem: lambda problem: problem,
    HTTPException: _from_http,
    RequestValidationError: _from_validation,
    DatabaseUnavailable: _from_database,
    BusUnavailable: lambda _: unavailable("unavailable", "Redis cannot serve at the moment."),
    TooBusy: lambda _: unavailable("busy", "Too many passwords are being checked."),
    UserGone: lambda _: Problem("not_authenticated", "This user does not exist or is not active."),
    TooLarge: lambda error: Problem("out_of_range", f"{error}."),
    ContradictoryFill: lambda error: Problem("exceeds_position", f"{str(error).capitalize()}."),
    NameTaken: lambda _: Problem("name_taken", "Another of your accounts has this name."),
    TooManyLeaves: lambda _: Problem("out_of_range", "There are too many symbols and strategies for one tree."),
    TradeDeleted: lambda _: Problem("trade_deleted", "A trade with this trade_id was deleted. Its id stays taken."),
    TooManyFills: lambda error: Problem("out_of_range", f"{str(error).capitalize()}. Ask for fewer symbols."),
    ChainTooLong: lambda error: Problem("too_many_fills", f"{str(error).capitalize()}. Nothing was changed."),
    TooManyPositions: lambda _: Problem("too_many_positions", "Close a position before opening another."),
    PositionChanged: lambda _: Problem("version_mismatch", "The position has changed. Read it again."),
    StandingAlready: lambda _: Problem(
        "position_exists", "An open position of this symbol stands in this account and strategy."
    ),
}
