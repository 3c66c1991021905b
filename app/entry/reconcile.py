"""``run.py reconcile``: positions and the P&L cache against the ledger, once, for a person to read.

A running P&L worker hears of every repair as of any other event, so this may
run beside it. The books in the workers' memory are theirs alone to compare.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Final
from uuid import UUID

from rich.console import Console
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus.connection import connect
from app.domain.drift import Drift
from app.entry.configuration import external_servers
from app.entry.logging import configure_logging
from app.entry.process import holder_name
from app.repositories.database import DatabaseUnavailable, create_engine, transaction
from app.repositories.leases import LeaseRepository
from app.repositories.reconciliation import ReconciliationRepository
from app.repositories.users import UserRepository
from app.settings import Settings
from app.supervision.problems import StartProblem
from app.workers.leadership import Leadership
from app.workers.reconciliation import Fence, Fenced, Limits, Reconciliation
from app.workers.reconciliation_report import FINDINGS_KEPT, Report

DRIFT_EXIT_CODE: Final = 3
"""Something was not as the ledger has it, whether or not it is now."""

_ROLE: Final = "reconciliation"
_LEASE_TTL_MS: Final = 15_000
_UNLIMITED: Final = Limits(most_repairs=10**9, most_rows=10**9)


def reconcile_configured(settings: Settings, *, user: str | None, is_dry_run: bool) -> int:
    """Compare, repair unless it is a dry run, print what was found, and give the exit code. Raises StartProblem."""
    configure_logging(level="error", log_format=settings.log_format, process="reconcile")
    report = asyncio.run(_reconcile(settings, user, is_dry_run=is_dry_run))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in _lines(report, is_dry_run=is_dry_run):
        console.print(line)
    return 0 if report.is_clean else DRIFT_EXIT_CODE


async def _reconcile(settings: Settings, user: str | None, *, is_dry_run: bool) -> Report:
    database_url, redis_url = external_servers(settings)
    async with AsyncExitStack() as opened:
        engine = create_engine(database_url, pool_size=2, timeout_s=settings.database_timeout_s)
        opened.push_async_callback(engine.dispose)
        redis = connect(redis_url, settings.redis_timeout_s)
        opened.push_async_callback(redis.aclose)

        async def run(fence: Fence | None) -> Report:
            reconciliation = Reconciliation(
                ReconciliationRepository(engine),
                redis,
                redis_timeout_s=settings.redis_timeout_s,
                fence=fence,
                limits=_UNLIMITED,
                is_dry_run=is_dry_run,
            )
            return await reconciliation.run(None if user is None else [await _user_id(engine, user)])

        try:
            return await run(None) if is_dry_run else await _alone(engine, run)
        except (DatabaseUnavailable, Fenced) as error:
            raise StartProblem(f"cannot reconcile: {error}") from None


async def _alone(engine: AsyncEngine, run: Callable[[Fence], Awaitable[Report]]) -> Report:
    """Run as the only one that repairs from a command line. Raises StartProblem."""
    leases = LeaseRepository(engine)
    if await leases.held_by_others([_ROLE], ""):
        raise StartProblem("another `run.py reconcile` is running")
    leadership = Leadership(leases, _ROLE, holder_name(), _LEASE_TTL_MS)
    epoch = await leadership.acquire()
    keeping = asyncio.create_task(leadership.keep(), name="reconcile.lease")
    try:
        return await run(Fence(_ROLE, epoch, lambda: leadership.is_certain))
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await leadership.release()


async def _user_id(engine: AsyncEngine, user: str) -> str:
    """The id of a user by name or id. Raises StartProblem."""
    async with transaction(engine) as connection:
        users = UserRepository(connection)
        named = await users.credentials(user)
        if named is not None:
            return named.user_id
        found = await users.get(user) if _is_uuid(user) else None
    if found is None:
        raise StartProblem(f"there is no user {user!a}")
    return found.user_id


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _lines(report: Report, *, is_dry_run: bool) -> Iterator[str]:
    for finding in report.findings:
        yield f"{finding.user_id}  {_described(finding.drift)}"
    total = report.drifts.total()
    if total > FINDINGS_KEPT:
        yield f"… and {total - FINDINGS_KEPT} more"
    yield f"{report.users} users, {report.rows} fills and positions in {report.seconds:.1f} s: " + (
        _verdict(report, total, is_dry_run=is_dry_run)
    )


def _described(drift: Drift) -> str:
    what = " ".join(filter(None, (drift.symbol, drift.position_id)))
    said = _written(drift)
    return f"{drift.place}: {drift.kind} {what}{said}"


def _written(drift: Drift) -> str:
    if drift.before is None or drift.after is None:
        return ""
    changes = (f"{name} {drift.before[name]} → {drift.after[name]}" for name in drift.fields)
    return ": " + ", ".join(changes)


def _verdict(report: Report, total: int, *, is_dry_run: bool) -> str:
    parts = ["everything is as the ledger has it"] if not total else [f"{total} drifts"]
    if total and not is_dry_run:
        parts.append(f"{report.users_repaired} users put right")
    if report.users_left:
        parts.append(f"{report.users_left} users could not be put right")
    if report.users_skipped:
        parts.append(f"{report.users_skipped} users could not be examined")
    return ", ".join(parts)
