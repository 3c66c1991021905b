"""An exchange that a test decides over, and the waiting for what it should bring about."""

from collections.abc import AsyncIterator

import pytest

from tests.exchanges.fake_exchange import FakeExchange


@pytest.fixture
async def exchange() -> AsyncIterator[FakeExchange]:
    async with FakeExchange().listening() as exchange:
        yield exchange
