"""What Redis and PostgreSQL count themselves."""

from typing import Any, NamedTuple

import asyncpg
from redis.asyncio import Redis


class Counts(NamedTuple):
    """Totals so far."""

    redis_commands: int
    redis_output_bytes: int
    redis_memory_bytes: int
    transactions: int
    rows_written: int

    def since(self, earlier: "Counts") -> "Counts":
        return Counts(*(now - then for now, then in zip(self, earlier, strict=True)))


class Counters:
    """Reads both servers. Its own reading is one transaction and two commands of what it counts."""

    def __init__(self, redis: "Redis", database: "asyncpg.Connection[Any]") -> None:
        self._redis = redis
        self._database = database

    async def read(self) -> Counts:
        info = {**await self._redis.info("stats"), **await self._redis.info("memory")}
        row = await self._database.fetchrow(
            "SELECT xact_commit + xact_rollback, tup_inserted + tup_updated + tup_deleted"
            " FROM pg_stat_database WHERE datname = current_database()"
        )
        assert row is not None
        return Counts(
            int(info["total_commands_processed"]),
            int(info["total_net_output_bytes"]),
            int(info["used_memory"]),
            int(row[0]),
            int(row[1]),
        )
