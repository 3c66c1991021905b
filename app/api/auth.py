"""Users and their ways in: register, log in and out, sessions, API tokens."""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from fastapi import Query, Request, Response
from pydantic import Field, StringConstraints

from app.api import bodies
from app.api.answers import encode, json_answer
from app.api.authentication import Caller, Visitor
from app.api.context import Opened, Web
from app.api.fields import LoginName, Name, QueryParameters, RequestBody
from app.api.ledger_writes import Repetition, Unchanged
from app.api.paging import Cursor, Limit, page_by_offset
from app.api.passwords import MAX_LENGTH, MIN_LENGTH
from app.api.problems import Problem, rate_limited
from app.api.routing import new_router
from app.bus import keys
from app.bus.connection import deadline
from app.bus.messages import SessionEnded
from app.bus.sessions import COOKIE, INSECURE_COOKIE, Session, session_token
from app.domain.statements import timestamp
from app.repositories.accounts import AccountRepository
from app.repositories.api_tokens import ApiToken, ApiTokenRepository, new_token
from app.repositories.database import transaction
from app.repositories.users import Credentials, UsernameTaken, UserRepository

router = new_router("/api/v1/auth", "auth")

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_MAX_TOKENS = 50
_ADDRESSES_PER_USER = 10
"""From how many addresses a user's log-in limit can be used up before it holds for all of them."""

Username = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{2,31}$")]
NewPassword = Annotated[str, StringConstraints(min_length=MIN_LENGTH, max_length=MAX_LENGTH)]


class Registration(RequestBody):
    """A new user. Names are told apart without regard to letter case."""

    username: Username
    password: NewPassword


class Login(RequestBody):
    """A user's name and password."""

    username: LoginName
    password: Annotated[str, StringConstraints(min_length=1, max_length=MAX_LENGTH)]


class NewToken(RequestBody):
    """A token for a program: what it is for, and what it may do."""

    name: Name
    scopes: Annotated[list[Literal["read", "trade"]], Field(min_length=1, max_length=2)]


class Page(QueryParameters):
    """A page of a list."""

    limit: Limit = 50
    cursor: Cursor | None = None


@router.post("/register", status_code=201, response_model=bodies.Registered)
async def register(request: Request, web: Opened, body: Registration) -> Response:
    """Make a user with one account, and log in."""
    if not web.policy.registration_open:
        raise Problem("registration_closed", "This server takes no new users.")
    await _limit_address(request, web, "register")
    password_hash = await web.passwords.hash(body.password)
    try:
        async with transaction(web.database) as connection:
            user_id = await UserRepository(connection).create(body.username, password_hash)
            await AccountRepository(connection).create(user_id, "Main", "manual", web.policy.reporting_currency)
    except UsernameTaken:
        raise Problem("username_taken", "Choose another user name.") from None
    token, session = await _begin_session(request, web, user_id, body.username)
    answer = json_answer({"user_id": user_id, "username": body.username}, 201)
    _set_cookie(request, web, answer, token, session)
    return answer


@router.post("/login", response_model=bodies.LoggedIn)
async def login(request: Request, web: Opened, body: Login) -> Response:
    """Start a session. A wrong name and a wrong password get the same answer, in the same time."""
    await _limit_address(request, web, "login")
    await _limit_user(request, web, body.username)
    user = await _authenticate(web, body)
    if user is None:
        raise Problem("wrong_credentials", "Check both and try again.")
    token, session = await _begin_session(request, web, user.user_id, user.username)
    expires_at = _time(session.expires_ms)
    answer = json_answer({"user_id": user.user_id, "username": user.username, "expires_at": expires_at})
    _set_cookie(request, web, answer, token, session)
    return answer


@router.post("/logout", status_code=204)
async def logout(request: Request, web: Opened) -> Response:
    """End this session and close its sockets. Without a session there is nothing to do."""
    await _end_presented(request, web)
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="lax")
    answer.delete_cookie(INSECURE_COOKIE, httponly=True, samesite="lax")
    return answer


@router.get("/sessions", response_model=bodies.SessionList)
async def list_sessions(web: Opened, caller: Visitor, page: Annotated[Page, Query()]) -> Response:
    """The caller's sessions, newest first."""
    sessions = await web.sessions.of_user(caller.user_id)
    return page_by_offset(sessions, page.limit, page.cursor, lambda session: _show_session(session, caller))


@router.delete("/sessions/{session_id}", status_code=204)
async def end_session(web: Opened, caller: Visitor, session_id: str) -> Response:
    """End one of the caller's sessions and close its sockets."""
    if not await web.sessions.end(caller.user_id, session_id):
        raise Problem("not_found", "There is no such session.")
    return Response(status_code=204)


@router.post("/tokens", status_code=201, response_model=bodies.TokenCreated)
async def create_token(web: Opened, caller: Visitor, body: NewToken, repetition: Repetition) -> Response:
    """Make a token for a program. It is shown this once; a repeated request gets the rest of the answer."""
    token = new_token()
    scopes = sorted(set(body.scopes))
    try:
        async with transaction(web.database) as connection:
            await UserRepository(connection).lock(caller.user_id)
            await repetition.refuse_repetition(connection, caller.user_id)
            repository = ApiTokenRepository(connection)
            if await repository.count(caller.user_id) >= _MAX_TOKENS:
                raise Problem("too_many_tokens", f"A user may have {_MAX_TOKENS} tokens. Remove one first.")
            created = await repository.add(caller.user_id, body.name, scopes, token, web.now())
            shown = _show_token(created)
            # What is stored must not be a key to the account.
            await repetition.keep(connection, caller.user_id, 201, encode({**shown, "token": None}))
    except Unchanged as unchanged:
        return json_answer(*unchanged.answer)
    return json_answer({**shown, "token": token}, 201)


@router.get("/tokens", response_model=bodies.TokenList)
async def list_tokens(web: Opened, caller: Visitor, page: Annotated[Page, Query()]) -> Response:
    """The caller's tokens, without the tokens themselves."""
    async with transaction(web.database) as connection:
        tokens = await ApiTokenRepository(connection).of_user(caller.user_id)
    return page_by_offset(tokens, page.limit, page.cursor, _show_token)


@router.delete("/tokens/{token_id}", status_code=204)
async def remove_token(web: Opened, caller: Visitor, token_id: str) -> Response:
    """Make a token worthless at once, and close the sockets opened with it."""
    tokens: list[ApiToken] = []
    async with transaction(web.database) as connection:
        repository = ApiTokenRepository(connection)
        tokens = [token for token in await repository.of_user(caller.user_id) if token.token_id == token_id]
        if not tokens or not await repository.remove(caller.user_id, token_id):
            raise Problem("not_found", "There is no such token.")
    notice = msgspec.msgpack.encode(SessionEnded(caller.user_id, token_id))
    await deadline(web.redis.publish(keys.SESSION_CHANNEL, notice), web.policy.redis_timeout_s)
    return Response(status_code=204)


async def _authenticate(web: Web, attempt: Login) -> Credentials | None:
    """The user, if the password is right. Stores a stronger hash where the old one is outdated."""
    async with transaction(web.database) as connection:
        known = await UserRepository(connection).credentials(attempt.username)
    # No transaction is open while hashing: that takes a while, and many may wait for their turn.
    is_right = await web.passwords.verify(attempt.password, None if known is None else known.password_hash)
    if known is None or not is_right or not known.is_active:
        return None
    if web.passwords.is_outdated(known.password_hash):
        stronger = await web.passwords.hash(attempt.password)
        async with transaction(web.database) as connection:
            await UserRepository(connection).replace_password_hash(known.user_id, known.password_hash, stronger)
    return known


async def _begin_session(request: Request, web: Web, user_id: str, username: str) -> tuple[str, Session]:
    """A new session in place of the one presented, if any: an id never survives a log-in."""
    await _end_presented(request, web)
    return await web.sessions.create(user_id, username, request.headers.get("user-agent", ""))


async def _end_presented(request: Request, web: Web) -> None:
    presented = session_token(request.cookies)
    session = None if presented is None else await web.sessions.resolve(presented)
    if session is not None:
        await web.sessions.end(session.user_id, session.session_id)


async def _limit_address(request: Request, web: Web, scope: str) -> None:
    per_minute = web.policy.logins_per_minute_per_ip
    wait_s = await web.limits.take(scope, _address(request), capacity=per_minute, per_second=per_minute / 60)
    if wait_s:
        raise rate_limited(wait_s)


async def _limit_user(request: Request, web: Web, username: str) -> None:
    """Bound guesses at one user: closely from one address, loosely from all, so that nobody can lock others out."""
    user = hashlib.sha256(username.lower().encode()).hexdigest()[:32]
    per_minute = web.policy.logins_per_minute_per_user
    for subject, most in ((f"{user}:{_address(request)}", per_minute), (user, per_minute * _ADDRESSES_PER_USER)):
        wait_s = await web.limits.take("login-user", subject, capacity=most, per_second=most / 60)
        if wait_s:
            raise rate_limited(wait_s)


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else "local"


def _set_cookie(request: Request, web: Web, answer: Response, token: str, session: Session) -> None:
    is_secure = _needs_secure_cookie(request, web)
    answer.set_cookie(
        COOKIE if is_secure else INSECURE_COOKIE,
        token,
        max_age=(session.expires_ms - session.created_ms) // 1000,
        path="/",
        secure=is_secure,
        httponly=True,
        samesite="lax",
    )


def _needs_secure_cookie(request: Request, web: Web) -> bool:
    """Over plain http only this machine's own browser gets a cookie without Secure, and others in development."""
    if request.url.scheme == "https":
        return True
    return web.policy.is_production and _host_name(request) not in _LOCAL_HOSTS


def _host_name(request: Request) -> str | None:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None


def _show_session(session: Session, caller: Caller) -> dict[str, object]:
    return {
        "session_id": session.session_id,
        "is_current": session.session_id == caller.session_id,
        "client": session.client,
        "created_at": _time(session.created_ms),
        "seen_at": _time(session.seen_ms),
        "expires_at": _time(session.expires_ms),
    }


def _show_token(token: ApiToken) -> dict[str, object]:
    return {
        "token_id": token.token_id,
        "name": token.name,
        "scopes": token.scopes,
        "created_at": timestamp(token.created_at),
    }


def _time(unix_ms: int) -> str:
    return timestamp(datetime.fromtimestamp(unix_ms / 1000, UTC))
