"""The page: what the front-end build left in a folder, served at the root."""

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from app.api.problems import Problem

_UNBUILT = "The page is not built. Run 'make page' (or 'make run'), or use the API under /api/v1.\n"
_FOR_EVER = "public, max-age=31536000, immutable"


class PageRoute(Route):
    """Takes every path that is not the API's, so that the API's own 404 and 405 stay."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        super().__init__("/{path:path}", self._serve, methods=["GET"], include_in_schema=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["path"].startswith("/api/"):
            return Match.NONE, {}
        return super().matches(scope)

    async def _serve(self, request: Request) -> Response:
        path: str = request.path_params["path"]
        if path in {"", "index.html"}:
            return self._index()
        file = self._file(path)
        if file is None:
            raise Problem("not_found", "There is no such page.")
        # The build names assets by their content.
        caching = _FOR_EVER if path.startswith("assets/") else "no-cache"
        return FileResponse(file, headers={"Cache-Control": caching})

    def _index(self) -> Response:
        file = self._file("index.html")
        if file is None:
            return PlainTextResponse(_UNBUILT, headers={"Cache-Control": "no-store"})
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    def _file(self, path: str) -> Path | None:
        """A file inside the folder, whatever the path says."""
        try:
            file = (self._folder / path).resolve()
            is_served = file.is_relative_to(self._folder) and file.is_file()
        except (OSError, ValueError):
            return None
        return file if is_served else None


def page_route(folder: Path) -> Any:
    return PageRoute(folder)
