"""What every worker process does alike: log, run on uvloop, stop when told, end loudly when it breaks."""

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
import uvloop
from structlog.typing import FilteringBoundLogger

from app.entry.logging import configure_logging
from app.settings import Settings


def run_process(
    name: str,
    settings: Settings,
    work: Callable[[], Coroutine[Any, Any, object]],
    *,
    role_lost: tuple[type[Exception], ...] = (),
) -> None:
    """Run until SIGTERM or SIGINT, then return; or end the process when the work fails.

    Whatever the work raises ends the process: the next start loads everything.
    ``role_lost`` are the exceptions that say another process works now.
    """
    configure_logging(level=settings.log_level, log_format=settings.log_format, process=name)
    log = structlog.get_logger(name)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_told(work, log))
    except Exception as error:
        lost = error.split(role_lost)[0] if isinstance(error, ExceptionGroup) and role_lost else None
        if lost is not None:
            log.warning("process.role_lost", reason=str(_first(lost)))
        else:
            log.critical("process.failed", exc_info=error)
        sys.exit(1)
    log.info("process.stopped")


def holder_name() -> str:
    """A name for this process among all that may hold its role."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


async def _until_told(work: Callable[[], Coroutine[Any, Any, object]], log: FilteringBoundLogger) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, told.set)
    log.info("process.started", pid=os.getpid())
    working = asyncio.create_task(work(), name="work")
    waiting = asyncio.create_task(told.wait(), name="told")
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        waiting.cancel()
        await working
        return
    working.cancel()
    await asyncio.wait({working})
    if not working.cancelled():
        await working


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
