"""The page at the root, with caching that lets a new build arrive."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from app.api.middleware import RequestContext
from app.api.page import PageRoute
from app.api.problems import install_problems


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dist = tmp_path / "dist"
    (dist / "assets").mkdir(parents=True)
    (dist / "index.html").write_text("<!doctype html><title>Tidemark</title>")
    (dist / "assets" / "index-abc123.js").write_text("export {}")
    (dist / "favicon.svg").write_text("<svg/>")
    (tmp_path / "secret.txt").write_text("secret")
    return dist


@pytest.fixture
async def client(folder: Path) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    install_problems(app)
    app.add_middleware(RequestContext)
    app.router.routes.append(PageRoute(folder))
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as opened:
        yield opened


async def test_the_page_is_asked_for_anew_and_its_assets_never_again(client: httpx2.AsyncClient) -> None:
    page = await client.get("/")
    asset = await client.get("/assets/index-abc123.js")
    icon = await client.get("/favicon.svg")

    assert page.text.startswith("<!doctype html>")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["cache-control"] == icon.headers["cache-control"] == "no-cache"
    assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert asset.headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "path", ["/secret.txt", "/../secret.txt", "/%2e%2e/secret.txt", "/assets/../../secret.txt", "/assets", "/%00", "/x"]
)
async def test_nothing_outside_the_build_is_served(client: httpx2.AsyncClient, path: str) -> None:
    answer = await client.get(path)

    assert answer.status_code == 404
    assert "secret" not in answer.text


async def test_without_a_build_the_root_says_what_to_do(client: httpx2.AsyncClient, folder: Path) -> None:
    (folder / "index.html").unlink()

    answer = await client.get("/")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert "not built" in answer.text
