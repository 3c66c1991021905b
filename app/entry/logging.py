"""How every process writes its log: one line per event on stderr, readable or JSON."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SECRET_KEYS = frozenset(
    {"password", "token", "session", "cookie", "authorization", "api_key", "api_secret", "secret", "set_cookie"}
)
_REPEATS_PER_WINDOW = 5
_WINDOW_S = 10.0
_MOST_EVENTS = 500
_NOISY_LIBRARIES = ("asyncio", "alembic", "websockets", "httpx2", "httpcore2", "aiohttp.access", "sqlalchemy")


class RepeatLimiter(logging.Filter):
    """Lets an event through a few times per window, and says afterwards how often it was left out.

    An outage or an attacker can cause the same event thousands of times a second;
    the first few say all there is. Remembers a bounded number of events.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the record; adds ``left_out`` to the first after a pause."""
        key = (record.name, _event_of(record))
        now = self._now()
        since, count = self._seen.get(key, (now, 0))
        if now - since >= _WINDOW_S:
            if count > _REPEATS_PER_WINDOW:
                _annotate(record, count - _REPEATS_PER_WINDOW)
            since, count = now, 0
        if len(self._seen) >= _MOST_EVENTS:
            self._seen.clear()
        self._seen[key] = (since, count + 1)
        return count < _REPEATS_PER_WINDOW


def _event_of(record: logging.LogRecord) -> str:
    # structlog hands over its event as a dictionary; others a format string, the same for every repeat.
    return str(record.msg.get("event")) if isinstance(record.msg, dict) else str(record.msg)


def _annotate(record: logging.LogRecord, left_out: int) -> None:
    if isinstance(record.msg, dict):
        record.msg["left_out"] = left_out
    else:
        record.left_out = left_out


def redact(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """A structlog processor that hides what must not be in a log, whoever passed it."""
    for key in event_dict:
        if key.lower() in _SECRET_KEYS:
            event_dict[key] = "[redacted]"
    return event_dict


def configure_logging(*, level: str, log_format: Literal["console", "json"], process: str) -> None:
    """Send structlog and the standard library's logging to stderr. Call once, before anything logs."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        redact,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RepeatLimiter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()], processors=_rendering(log_format, process)
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    for name in _NOISY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def _rendering(log_format: Literal["console", "json"], process: str) -> list[Processor]:
    def name_process(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
        event_dict["process"] = process
        return event_dict

    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if log_format == "json":
        return [
            remove_meta,
            name_process,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ]
    # The richer traceback would show local variables, and with them secrets.
    plain = structlog.dev.plain_traceback
    return [remove_meta, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
