"""The page as a trader uses it, against real processes."""

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.system import ROOT, System, run_apart

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not (ROOT / "web/dist/index.html").exists(), reason="the page is not built (make page)"),
]

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("browser") / "data")
    run_apart(system.start())
    yield system
    run_apart(system.stop())


def register(page: Page, system: System) -> None:
    page.goto(system.url)
    page.get_by_test_id("switch-register").click()
    page.get_by_test_id("username").fill(f"trader-{secrets.token_hex(4)}")
    page.get_by_test_id("password").fill(PASSWORD)
    page.get_by_test_id("submit-login").click()
    expect(page.get_by_test_id("connection-state")).to_have_attribute("data-state", "live")


def open_position(page: Page, symbol: str, quantity: str) -> None:
    page.get_by_test_id("open-symbol").fill(symbol)
    page.get_by_test_id("open-quantity").fill(quantity)
    page.get_by_test_id("open-submit").click()


def test_a_trader_opens_a_position_sees_it_move_and_closes_it(page: Page, system: System, artifacts: Path) -> None:
    register(page, system)
    expect(page.get_by_test_id("sim-banner")).to_be_visible()

    open_position(page, "BTCUSDT", "0.5")

    row = page.get_by_test_id("position-row")
    expect(row).to_have_count(1)
    mark = row.get_by_test_id("row-mark")
    first = mark.get_attribute("data-value")
    assert first
    expect(mark).not_to_have_attribute("data-value", first)
    expect(row.get_by_test_id("row-age")).to_contain_text(re.compile(r"\d"))
    page.screenshot(path=artifacts / "page.png", full_page=True)

    row.get_by_test_id("close-position").click()
    page.get_by_test_id("close-confirm").click()
    expect(page.get_by_test_id("position-row")).to_have_count(0)


def test_a_symbol_that_is_not_listed_is_refused_in_words(page: Page, system: System) -> None:
    register(page, system)

    open_position(page, "BТCUSDT", "1")

    expect(page.get_by_text(re.compile("not listed", re.IGNORECASE)).first).to_be_visible()
    expect(page.get_by_test_id("position-row")).to_have_count(0)


def test_a_wrong_password_is_refused_in_words(page: Page, system: System) -> None:
    page.goto(system.url)
    page.get_by_test_id("username").fill("nobody-here")
    page.get_by_test_id("password").fill(PASSWORD)
    page.get_by_test_id("submit-login").click()

    expect(page.get_by_role("alert").first).to_be_visible()


def test_a_stalled_exchange_is_shown_as_stale(page: Page, system: System, artifacts: Path) -> None:
    register(page, system)
    open_position(page, "BTCUSDT", "0.5")
    expect(page.get_by_test_id("position-row")).to_have_count(1)

    run_apart(system.silence_exchange())
    try:
        state = page.get_by_test_id("feed-state")
        expect(state).to_have_attribute("data-state", re.compile("stale|down"), timeout=30_000)
        expect(page.get_by_test_id("position-row")).to_have_attribute("data-stale", "true", timeout=30_000)
        page.screenshot(path=artifacts / "page-stale.png", full_page=True)
    finally:
        run_apart(system.restore_exchange())
    expect(page.get_by_test_id("feed-state")).to_have_attribute("data-state", "simulated", timeout=30_000)
