"""What reconciliation found: of one run, and of all runs of a process."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog

from app.domain.drift import Drift, Kind, Place

log = structlog.get_logger(__name__)

FINDINGS_KEPT: Final = 200
_LOGGED_PER_RUN: Final = 20


class Finding(msgspec.Struct, frozen=True):
    """A drift of a user, and whether it was put right."""

    user_id: str
    drift: Drift
    is_repaired: bool


class Report(msgspec.Struct):
    """What a run did. ``findings`` are the first :data:`FINDINGS_KEPT` of them; all are counted."""

    users: int = 0
    rows: int = 0
    drifts: Counter[tuple[Place, Kind]] = msgspec.field(default_factory=Counter)
    users_repaired: int = 0
    users_left: int = 0
    """Whose drift was seen and not put right: too many, or the database would not."""
    users_skipped: int = 0
    """Who were not examined: more rows than one process should hold, or fills that cannot be booked."""
    seconds: float = 0.0
    findings: list[Finding] = []

    @property
    def is_clean(self) -> bool:
        """Whether everybody was examined, and nothing was found."""
        return not (self.drifts or self.users_left or self.users_skipped)

    def note(self, user_id: str, drifts: Sequence[Drift], *, is_repaired: bool) -> None:
        """Take in what was found of a user, and write a line for each drift, up to a bound. No amounts."""
        self.users_repaired += is_repaired and bool(drifts)
        for drift in drifts:
            if self.drifts.total() < _LOGGED_PER_RUN:
                _log_drift(user_id, drift)
            self.drifts[drift.place, drift.kind] += 1
            if len(self.findings) < FINDINGS_KEPT:
                self.findings.append(Finding(user_id, drift, is_repaired))

    def log_summary(self) -> None:
        """Write one line for the run."""
        found: dict[str, Any] = {f"{place}.{kind}": count for (place, kind), count in sorted(self.drifts.items())}
        write = log.info if self.is_clean else log.warning
        write(
            "reconciliation.done",
            users=self.users,
            rows=self.rows,
            repaired=self.users_repaired,
            left=self.users_left,
            skipped=self.users_skipped,
            seconds=round(self.seconds, 1),
            **found,
        )


class Counts(msgspec.Struct):
    """What all runs of a process did, for whoever watches it."""

    runs: int = 0
    failed_runs: int = 0
    users: int = 0
    drifts: Counter[tuple[Place, Kind]] = msgspec.field(default_factory=Counter)
    users_repaired: int = 0
    users_left: int = 0
    users_skipped: int = 0
    last_seconds: float = 0.0

    def add(self, report: Report) -> None:
        self.runs += 1
        self.users += report.users
        self.drifts.update(report.drifts)
        self.users_repaired += report.users_repaired
        self.users_left += report.users_left
        self.users_skipped += report.users_skipped
        self.last_seconds = report.seconds


def _log_drift(user_id: str, drift: Drift) -> None:
    log.warning(
        "reconciliation.drift",
        place=drift.place,
        kind=drift.kind,
        user_id=user_id,
        position_id=drift.position_id,
        fields=",".join(drift.fields),
    )
