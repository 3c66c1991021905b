"""The web application: what is served, and what surrounds it."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app.api import (
    accounts,
    auth,
    explain,
    exports,
    health,
    history,
    imports,
    me,
    pnl,
    positions,
    realized,
    symbols,
    trades,
)
from app.api.middleware import BodyLimit, OriginGuard, RequestContext
from app.api.openapi import describe
from app.api.page import PageRoute
from app.api.problems import install_problems
from app.lifespan import Lifespan, web_lifespan
from app.settings import Settings
from app.websocket import endpoint

API_ROUTERS = (
    auth.router,
    me.router,
    accounts.router,
    positions.router,
    trades.router,
    imports.router,
    exports.router,
    pnl.router,
    history.router,
    explain.router,
    realized.router,
    symbols.router,
    health.router,
)
"""Every router of the REST API; a test holds the folder against it."""

_PAGE = Path(__file__).resolve().parents[1] / "web" / "dist"
_MAX_BODY_BYTES = 64 * 1024


def create_app(settings: Settings, lifespan: Lifespan | None = None) -> FastAPI:
    """The application of one process. Opens nothing before its lifespan starts."""
    app = FastAPI(
        title="Tidemark",
        version="1",
        description="Real-time multi-user P&L: exact profit and loss for every trader.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan or web_lifespan(settings),
        redirect_slashes=False,
    )
    install_problems(app)
    for router in API_ROUTERS:
        app.include_router(router)
    app.include_router(endpoint.router)
    app.router.routes.append(PageRoute(_PAGE))
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    _surround(app, settings)
    return app


def _surround(app: FastAPI, settings: Settings) -> None:
    """Add what every request passes through. The last added is the outermost."""
    files = {imports.router.prefix: settings.import_max_bytes}
    app.add_middleware(BodyLimit, max_bytes=_MAX_BODY_BYTES, files=files)
    app.add_middleware(OriginGuard, public_origins=settings.public_origins)
    if settings.public_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.public_origins,
            allow_credentials=True,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "If-Match", "X-Request-ID"],
            expose_headers=["ETag", "Location", "Retry-After", "X-Request-ID"],
        )
    app.add_middleware(RequestContext)
    app.add_middleware(endpoint.StreamFirst)


def __getattr__(name: str) -> Any:
    """``app.main:app`` for gunicorn: made when asked for, so that importing this file reads no environment."""
    if name == "app":
        return create_app(Settings())
    raise AttributeError(name)
