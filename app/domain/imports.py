"""An import of fills: what was asked for, how far it is, what came of it; and its published form."""

from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from app.domain.import_formats import FormatName
from app.domain.statements import timestamp

State = Literal["waiting", "running", "done", "refused", "failed", "cancelled"]
"""``done``: everything is booked (or, in a dry run, could be). ``refused``: nothing is, for the errors in the file.
``failed``: nothing is, and the file is not to blame."""

MOST_FAULTS_KEPT: Final = 1000
"""Of each import; the others are counted."""


class StoredTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How a file is to be read, as it was asked for."""

    format: FormatName | None = None
    strategy: str = ""
    utc_offset_minutes: int = 0
    paid_is_negative: bool = False
    skip_errors: bool = False


class Progress(msgspec.Struct, kw_only=True):
    """How far an import is. ``rows_total`` is None until the file is read to its end."""

    format: str | None = None
    bytes_read: int = 0
    rows_read: int = 0
    rows_total: int | None = None
    rows_booked: int = 0
    repeated_in_file: int = 0
    repeated_in_ledger: int = 0
    errors: int = 0


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """One import."""

    import_id: str
    user_id: str
    account_id: str
    state: State
    is_dry_run: bool
    terms: StoredTerms
    size_bytes: int
    progress: Progress
    reason: str | None
    attempts: int
    created_at: datetime
    finished_at: datetime | None


class RowFault(msgspec.Struct, frozen=True):
    """What is wrong with a row; ``row`` is None where the file as a whole is meant."""

    row: int | None
    column: str | None
    reason: str


class Faults:
    """Collects what is wrong with a file: all are counted, the first are kept."""

    def __init__(self) -> None:
        self.count = 0
        self.kept: list[RowFault] = []

    def add(self, row: int | None, column: str | None, reason: str) -> None:
        self.count += 1
        if len(self.kept) < MOST_FAULTS_KEPT:
            self.kept.append(RowFault(row, column, reason))


def import_statement(one: Import) -> dict[str, Any]:
    """``Import`` of the contract."""
    progress = one.progress
    return {
        "import_id": one.import_id,
        "account_id": one.account_id,
        "state": one.state,
        "dry_run": one.is_dry_run,
        "format": progress.format,
        "size_bytes": one.size_bytes,
        "bytes_read": progress.bytes_read,
        "rows_total": progress.rows_total,
        "rows_read": progress.rows_read,
        "rows_booked": progress.rows_booked,
        "repeated_in_file": progress.repeated_in_file,
        "repeated_in_ledger": progress.repeated_in_ledger,
        "error_count": progress.errors,
        "reason": one.reason,
        "created_at": timestamp(one.created_at),
        "finished_at": None if one.finished_at is None else timestamp(one.finished_at),
    }


def fault_statement(fault: RowFault) -> dict[str, Any]:
    """``ImportFault`` of the contract."""
    return msgspec.structs.asdict(fault)
