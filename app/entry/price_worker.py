"""``run.py price-worker``."""

from app.bus.prices import Fenced
from app.entry.configuration import external_servers
from app.entry.process import holder_name, run_process
from app.exchanges.binance.timing import Timing
from app.settings import Settings
from app.workers.leadership import LeaseLost
from app.workers.price_worker import run_price_worker


def main(settings: Settings) -> None:
    """Run the price worker until told to stop. Raises StartProblem."""
    database_url, redis_url = external_servers(settings)

    async def work() -> None:
        await run_price_worker(
            database_url=database_url,
            database_pool_size=settings.database_pool_size,
            database_timeout_s=settings.database_timeout_s,
            redis_url=redis_url,
            redis_timeout_s=settings.redis_timeout_s,
            holder=holder_name(),
            lease_ttl_ms=settings.lease_ttl_ms,
            flush_ms=settings.flush_ms,
            stale_after_ms=settings.stale_after_ms,
            simulated=settings.feed_is_simulated,
            binance_urls=settings.binance_urls,
            binance_timing=Timing(
                first_data_s=settings.binance_first_data_s,
                silence_s=settings.binance_silence_s,
                data_age_s=settings.binance_data_age_s,
                stale_s=min(settings.stale_after_ms / 1000, settings.binance_data_age_s),
                rotate_after_s=settings.binance_rotate_after_s,
            ),
            binance_max_streams_per_connection=settings.binance_max_streams_per_connection,
        )

    run_process("price-worker", settings, work, role_lost=(LeaseLost, Fenced))
