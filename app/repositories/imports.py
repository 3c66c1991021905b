"""Imports: asked for, taken by somebody who works on them, and ended once.

Whoever works on an import holds it for a while and says so again and again. Only
the holder can end it, and it ends in the transaction that books its fills: so it
is booked once, whatever crashed and whoever took over.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import ARRAY, Uuid, bindparam, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.imports import Import, Progress, RowFault, State, StoredTerms
from app.repositories.database import violated
from app.repositories.paging import Place, precedes
from app.repositories.tables import import_errors, imports

_MOST_KEPT: Final = 100
"""Finished imports of a user; older ones are forgotten."""


class ImportRunning(Exception):
    """The user has an import that is not finished."""


class NotHeld(Exception):
    """Somebody else works on the import, or it was cancelled."""


_PROGRESS: Final = Progress.__struct_fields__
_COLUMNS: Final = (
    *(imports.c.id, imports.c.user_id, imports.c.account_id, imports.c.state, imports.c.is_dry_run, imports.c.terms),
    *(imports.c.size_bytes, imports.c.reason, imports.c.attempts, imports.c.created_at, imports.c.finished_at),
    *(imports.c[name] for name in _PROGRESS),
)

# By the database's clock, as leases are.
_TAKE: Final = text(
    """
    UPDATE imports SET state = 'running', holder = :holder, attempts = attempts + 1,
        held_until = clock_timestamp() + :hold_s * interval '1 second'
    WHERE id = CAST(:id AS uuid) AND (
        state = 'waiting' OR (state = 'running' AND held_until < clock_timestamp())
    )
    RETURNING id
    """
)
_UNHELD: Final = text(
    """
    SELECT id::text FROM imports
    WHERE state = 'waiting' OR (state = 'running' AND held_until < clock_timestamp())
    ORDER BY created_at LIMIT :limit
    """
)
_ABANDON: Final = text(
    """
    UPDATE imports SET state = 'failed', holder = NULL, finished_at = clock_timestamp(), reason = :reason
    WHERE (state = 'waiting' AND created_at < clock_timestamp() - :after_s * interval '1 second')
       OR (state = 'running' AND held_until < clock_timestamp() - :after_s * interval '1 second')
    RETURNING id::text
    """
)
_FORGET_OLD: Final = text(
    """
    DELETE FROM imports WHERE id IN (
        SELECT id FROM imports WHERE user_id = CAST(:user_id AS uuid) AND finished_at IS NOT NULL
        ORDER BY created_at DESC, id DESC OFFSET :most
    )
    """
)
_UNFINISHED_OF: Final = text(
    "SELECT id::text FROM imports WHERE id = ANY(:ids) AND state IN ('waiting', 'running')"
).bindparams(bindparam("ids", type_=ARRAY(Uuid(as_uuid=False))))


class ImportRepository:
    """Reads and writes imports within the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(
        self,
        *,
        import_id: str,
        user_id: str,
        account_id: str,
        is_dry_run: bool,
        terms: StoredTerms,
        size_bytes: int,
    ) -> None:
        """Ask for an import, and forget the user's oldest. Raises ImportRunning: the transaction is void then."""
        await self._connection.execute(_FORGET_OLD, {"user_id": user_id, "most": _MOST_KEPT})
        values = {
            "id": import_id,
            "user_id": user_id,
            "account_id": account_id,
            "state": "waiting",
            "is_dry_run": is_dry_run,
            "format": terms.format,
            "terms": msgspec.to_builtins(terms),
            "size_bytes": size_bytes,
        }
        try:
            await self._connection.execute(insert(imports).values(**values))
        except IntegrityError as error:
            if violated(error) != "uq_imports_unfinished":
                raise
            raise ImportRunning from error

    async def has_unfinished(self, user_id: str) -> bool:
        query = select(imports.c.id).where(imports.c.user_id == user_id, imports.c.finished_at.is_(None))
        return await self._connection.scalar(query.limit(1)) is not None

    async def get(self, user_id: str, import_id: str) -> Import | None:
        """An import of this user; another's is as absent as one that never was."""
        query = select(*_COLUMNS).where(imports.c.id == import_id, imports.c.user_id == user_id)
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else _to_import(row)

    async def find(self, import_id: str) -> Import | None:
        """An import of anybody, for whoever works on it."""
        row = (await self._connection.execute(select(*_COLUMNS).where(imports.c.id == import_id))).one_or_none()
        return None if row is None else _to_import(row)

    async def page(self, user_id: str, *, limit: int, after: Place | None = None) -> list[Import]:
        """Up to ``limit`` imports, the newest first, that follow ``after`` in that order."""
        query = select(*_COLUMNS).where(imports.c.user_id == user_id)
        if after is not None:
            query = query.where(precedes(after, imports.c.created_at, imports.c.id))
        query = query.order_by(imports.c.created_at.desc(), imports.c.id.desc()).limit(limit)
        return [_to_import(row) for row in await self._connection.execute(query)]

    async def unheld(self, limit: int) -> list[str]:
        """Imports that wait, or that nobody works on any more, the oldest first."""
        return list(await self._connection.scalars(_UNHELD, {"limit": limit}))

    async def unfinished_of(self, import_ids: Sequence[str]) -> set[str]:
        """Those of the imports that are not finished."""
        return set(await self._connection.scalars(_UNFINISHED_OF, {"ids": list(import_ids)}))

    async def take(self, import_id: str, holder: str, hold_s: float) -> bool:
        """Become the one who works on an import. False while somebody else does, or when it is finished."""
        given = {"id": import_id, "holder": holder, "hold_s": hold_s}
        return await self._connection.scalar(_TAKE, given) is not None

    async def hold(self, import_id: str, holder: str, hold_s: float, progress: Progress) -> None:
        """Go on holding it, and say how far it is. Raises NotHeld."""
        until = text("clock_timestamp() + :hold_s * interval '1 second'").bindparams(hold_s=hold_s)
        await self._as_holder(import_id, holder, {**msgspec.structs.asdict(progress), "held_until": until})

    async def finish(
        self, import_id: str, holder: str, state: State, progress: Progress, *, reason: str | None, now: datetime
    ) -> None:
        """End it. Raises NotHeld: then whatever else the transaction did must not be."""
        ended = {"state": state, "holder": None, "held_until": None, "reason": reason, "finished_at": now}
        await self._as_holder(import_id, holder, {**msgspec.structs.asdict(progress), **ended})

    async def release(self, import_id: str, holder: str) -> None:
        """Let another take it at once; that it was begun does not count. Raises NotHeld."""
        waiting = {"state": "waiting", "holder": None, "held_until": None, "attempts": imports.c.attempts - 1}
        await self._as_holder(import_id, holder, waiting)

    async def cancel(self, user_id: str, import_id: str, now: datetime) -> bool:
        """End an import that is not finished; its holder finds out. False where there is no such one."""
        statement = (
            update(imports)
            .where(imports.c.id == import_id, imports.c.user_id == user_id, imports.c.finished_at.is_(None))
            .values(state="cancelled", holder=None, held_until=None, finished_at=now)
            .returning(imports.c.id)
        )
        return await self._connection.scalar(statement) is not None

    async def abandon(self, after_s: float, reason: str) -> list[str]:
        """End imports that nobody has worked on for so long: the host with their files does not come back."""
        return list(await self._connection.scalars(_ABANDON, {"after_s": after_s, "reason": reason}))

    async def keep_errors(self, import_id: str, errors: Sequence[RowFault]) -> None:
        """Store the errors of an import instead of those stored before."""
        await self._connection.execute(delete(import_errors).where(import_errors.c.import_id == import_id))
        if errors:
            rows = [
                {
                    "import_id": import_id,
                    "place": place,
                    "row": error.row,
                    "column": error.column,
                    "reason": error.reason,
                }
                for place, error in enumerate(errors, start=1)
            ]
            await self._connection.execute(insert(import_errors), rows)

    async def errors(self, import_id: str, *, after: int, limit: int) -> list[tuple[int, RowFault]]:
        """Errors by their place, which follow ``after``."""
        e = import_errors.c
        query = select(e.place, e.row, e.column, e.reason).where(e.import_id == import_id, e.place > after)
        rows = await self._connection.execute(query.order_by(e.place).limit(limit))
        return [(place, RowFault(row, column, reason)) for place, row, column, reason in rows]

    async def _as_holder(self, import_id: str, holder: str, values: dict[str, Any]) -> None:
        statement = (
            update(imports)
            .where(imports.c.id == import_id, imports.c.holder == holder, imports.c.state == "running")
            .values(**values)
            .returning(imports.c.id)
        )
        if await self._connection.scalar(statement) is None:
            raise NotHeld(import_id)


def _to_import(row: Sequence[Any]) -> Import:
    import_id, user_id, account_id, state, is_dry_run, terms, size, reason, attempts, created_at, finished_at = row[:11]
    return Import(
        import_id=import_id,
        user_id=user_id,
        account_id=account_id,
        state=state,
        is_dry_run=is_dry_run,
        terms=msgspec.convert(terms, StoredTerms),
        size_bytes=size,
        progress=Progress(**dict(zip(_PROGRESS, row[11:], strict=True))),
        reason=reason,
        attempts=attempts,
        created_at=created_at,
        finished_at=finished_at,
    )
