"""``run.py pnl-worker``."""

from contextlib import AsyncExitStack
from datetime import timedelta

from app.bus.connection import connect
from app.entry.configuration import external_servers
from app.entry.process import holder_name, run_process
from app.repositories.database import create_engine
from app.settings import Settings
from app.workers.leadership import LeaseLost
from app.workers.pnl_worker import run_pnl_worker


def main(settings: Settings) -> None:
    """Run the P&L worker until told to stop. Raises StartProblem."""
    database_url, redis_url = external_servers(settings)

    async def work() -> None:
        async with AsyncExitStack() as opened:
            engine = create_engine(
                database_url, pool_size=settings.database_pool_size, timeout_s=settings.database_timeout_s
            )
            opened.push_async_callback(engine.dispose)
            redis = connect(redis_url, settings.redis_timeout_s)
            opened.push_async_callback(redis.aclose)
            await run_pnl_worker(
                engine=engine,
                redis=redis,
                holder=holder_name(),
                lease_ttl_ms=settings.lease_ttl_ms,
                stale_after_ms=settings.stale_after_ms,
                reporting_currency=settings.reporting_currency,
                redis_timeout_s=settings.redis_timeout_s,
                cache_ttl_s=settings.pnl_cache_ttl_s,
                shards=settings.pnl_shards,
                minutes_for=timedelta(days=settings.history_minute_days),
                hours_for=timedelta(days=settings.history_hour_days),
                reconcile_every_s=settings.reconcile_every_s,
                warm_positions=settings.pnl_warm_positions,
            )

    run_process("pnl-worker", settings, work, role_lost=(LeaseLost,))
