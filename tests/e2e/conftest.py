"""One running system for the tests that break nothing; those that do start their own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.e2e.system import System, run_apart
from tests.e2e.trader import Trader


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system for one module."""
    system = System(tmp_path_factory.mktemp("system") / "data")
    run_apart(system.start())
    yield system
    run_apart(system.stop())


@pytest.fixture
def own_data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def trader(system: System) -> AsyncIterator[Trader]:
    """A new user of the module's system, logged in."""
    async with Trader(system) as trader:
        await trader.register()
        yield trader
