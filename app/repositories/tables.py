"""The tables. What must never be wrong is a constraint here, whoever writes.

Ledger sums are NUMERIC without a scale, so a Decimal comes back exactly as it
went in. PostgreSQL sorts NaN above every number: only an upper bound refuses it.
"""

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ID = Uuid(as_uuid=False)
_TIME = DateTime(timezone=True)


def _finite(*columns: str) -> CheckConstraint:
    """Refuses NaN and both infinities in each column."""
    terms = " AND ".join(f"{column} > '-Infinity' AND {column} < 'Infinity'" for column in columns)
    return CheckConstraint(terms, name="finite")


def _positive(*columns: str) -> CheckConstraint:
    """Refuses zero, negatives, NaN and infinity in each column; NULL passes."""
    terms = " AND ".join(f"{column} > 0 AND {column} < 'Infinity'" for column in columns)
    return CheckConstraint(terms, name="positive")


users = Table(
    "users",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("username", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
    Column("is_active", Boolean, nullable=False, server_default=text("true")),
    Column("ledger_seq", BigInteger, nullable=False, server_default=text("0")),
    Column("ledger_changed_at", _TIME, nullable=False, server_default=func.now()),
    # An IANA name: where midnight is for the user's days.
    Column("time_zone", Text, nullable=False, server_default=text("'UTC'")),
)
Index("uq_users_username_lower", func.lower(users.c.username), unique=True)
Index("ix_users_ledger_changed_at", users.c.ledger_changed_at)

accounts = Table(
    "accounts",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("position_mode", Text, nullable=False, server_default=text("'one_way'")),
    # What values the positions (app.domain.prices.Basis).
    Column("valuation", Text, nullable=False, server_default=text("'auto'")),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
    UniqueConstraint("user_id", "name"),
    CheckConstraint("kind IN ('manual', 'paper', 'exchange')", name="kind"),
    CheckConstraint("position_mode IN ('one_way', 'hedge')", name="position_mode"),
    CheckConstraint("valuation IN ('auto', 'mid', 'last', 'mark', 'exit')", name="valuation"),
)

positions = Table(
    "positions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    Column("account_id", _ID, ForeignKey("accounts.id"), nullable=False),
    Column("symbol", Text, nullable=False),
    Column("market", Text, nullable=False),
    Column("base", Text, nullable=False),
    Column("quote", Text, nullable=False),
    Column("settle", Text, nullable=False),
    Column("multiplier", Numeric, nullable=False),
    Column("tick_size", Numeric, nullable=False),
    Column("step_size", Numeric, nullable=False),
    Column("position_side", Text, nullable=False, server_default=text("'net'")),
    Column("strategy", Text, nullable=False, server_default=text("''")),
    Column("signed_qty", Numeric, nullable=False),
    Column("cost", Numeric, nullable=False),
    Column("cash", Numeric, nullable=False),
    Column("fees", Numeric, nullable=False),
    Column("funding", Numeric, nullable=False),
    Column("fees_unpriced", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # Rounded to 1e-18 as published, so that SQL sums of closed rows equal the sums of what was shown.
    Column("realized_pnl_gross", Numeric, nullable=False),
    Column("fees_published", Numeric, nullable=False),
    Column("funding_published", Numeric, nullable=False),
    # In the reporting currency at the rates of their times; null where the settle asset is that currency.
    Column("converted_gross", Numeric),
    Column("converted_fees", Numeric),
    Column("converted_funding", Numeric),
    Column("is_converted", Boolean, nullable=False, server_default=text("true")),
    Column("reported_gross", Numeric),
    Column("reported_fees", Numeric),
    Column("reported_funding", Numeric),
    Column("note", Text, nullable=False, server_default=text("''")),
    Column("take_profit", Numeric),
    Column("stop_loss", Numeric),
    Column("status", Text, nullable=False),
    Column("opened_at", _TIME, nullable=False),
    Column("updated_at", _TIME, nullable=False),
    Column("closed_at", _TIME),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("market IN ('spot', 'linear', 'inverse')", name="market"),
    CheckConstraint("position_side IN ('net', 'long', 'short')", name="position_side"),
    CheckConstraint("status IN ('open', 'closed')", name="status"),
    CheckConstraint("(status = 'open') = (closed_at IS NULL)", name="closed_at"),
    CheckConstraint("(status = 'open') = (signed_qty <> 0)", name="flat_is_closed"),
    CheckConstraint("version >= 1", name="version"),
    _finite(
        "signed_qty", "cost", "cash", "fees", "funding", "realized_pnl_gross", "fees_published", "funding_published"
    ),
    CheckConstraint(
        "num_nulls(converted_gross, converted_fees, converted_funding,"
        " reported_gross, reported_fees, reported_funding) IN (0, 6)",
        name="converted_whole",
    ),
    _positive("multiplier", "tick_size", "step_size", "take_profit", "stop_loss"),
)
Index(
    "uq_positions_open",
    positions.c.account_id,
    positions.c.symbol,
    positions.c.position_side,
    positions.c.strategy,
    unique=True,
    postgresql_where=text("status = 'open'"),
)
# Read backwards for "newest first", so that a page is one range of the index.
Index("ix_positions_user_status", positions.c.user_id, positions.c.status, positions.c.opened_at, positions.c.id)
Index("ix_positions_user_opened", positions.c.user_id, positions.c.opened_at, positions.c.id)
# Where a replay of a chain may begin.
Index(
    "ix_positions_chain",
    positions.c.account_id,
    positions.c.symbol,
    positions.c.position_side,
    positions.c.strategy,
    positions.c.opened_at,
)
Index("ix_positions_symbol_status", positions.c.symbol, positions.c.status)

trades = Table(
    "trades",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    Column("account_id", _ID, ForeignKey("accounts.id"), nullable=False),
    Column("symbol", Text, nullable=False),
    Column("position_id", _ID, ForeignKey("positions.id"), nullable=False),
    # Set when the fill went through zero: the position that its rest opened.
    Column("opened_position_id", _ID, ForeignKey("positions.id")),
    Column("side", Text, nullable=False),
    Column("quantity", Numeric, nullable=False),
    Column("price", Numeric, nullable=False),
    Column("fee", Numeric, nullable=False, server_default=text("0")),
    Column("fee_asset", Text),
    Column("fee_rate", Numeric),
    Column("executed_at", _TIME, nullable=False),
    Column("trade_id", Text),
    Column("strategy", Text, nullable=False, server_default=text("''")),
    Column("position_side", Text, nullable=False, server_default=text("'net'")),
    # Reporting units per settle unit at the time of the fill; null where none is needed, or none was known.
    Column("rate_to_reporting", Numeric),
    Column("source", Text, nullable=False),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    CheckConstraint("side IN ('buy', 'sell')", name="side"),
    CheckConstraint("position_side IN ('net', 'long', 'short')", name="position_side"),
    _finite("fee"),
    _positive("quantity", "price", "fee_rate", "rate_to_reporting"),
)
Index(
    "uq_trades_trade_id",
    trades.c.account_id,
    trades.c.symbol,
    trades.c.trade_id,
    unique=True,
    postgresql_where=text("trade_id IS NOT NULL"),
)
# The order of a chain, in which its fills are replayed.
Index(
    "ix_trades_chain",
    trades.c.account_id,
    trades.c.symbol,
    trades.c.position_side,
    trades.c.strategy,
    trades.c.executed_at,
    trades.c.created_at,
    trades.c.id,
)
Index("ix_trades_user_executed", trades.c.user_id, trades.c.executed_at, trades.c.id)
Index("ix_trades_user_symbol_executed", trades.c.user_id, trades.c.symbol, trades.c.executed_at, trades.c.id)
Index("ix_trades_position", trades.c.position_id)
Index("ix_trades_opened_position", trades.c.opened_position_id, postgresql_where=text("opened_position_id IS NOT NULL"))

# Money that came or went without a trade. An adjustment counts as profit, the others as flows.
transfers = Table(
    "transfers",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    Column("account_id", _ID, ForeignKey("accounts.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("asset", Text, nullable=False),
    # Signed: what came is positive, what went negative.
    Column("amount", Numeric, nullable=False),
    # Reporting units per unit of the asset at its time; null where none was known.
    Column("rate_to_reporting", Numeric),
    # The amount at that rate, rounded to 1e-18 as published.
    Column("reported", Numeric),
    Column("note", Text, nullable=False, server_default=text("''")),
    # The other account of a transfer between two of the same user.
    Column("other_account_id", _ID, ForeignKey("accounts.id")),
    Column("at", _TIME, nullable=False),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
    CheckConstraint("kind IN ('deposit', 'withdrawal', 'internal', 'adjustment')", name="kind"),
    CheckConstraint("(kind = 'internal') = (other_account_id IS NOT NULL)", name="other_account"),
    CheckConstraint("(rate_to_reporting IS NULL) = (reported IS NULL)", name="reported"),
    _finite("amount"),
    _positive("rate_to_reporting"),
)
Index("ix_transfers_account_at", transfers.c.account_id, transfers.c.at, transfers.c.id)
Index("ix_transfers_user", transfers.c.user_id)

events = Table(
    "events",
    metadata,
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("at", _TIME, nullable=False),
    Column("data", JSONB, nullable=False),
    PrimaryKeyConstraint("user_id", "seq"),
    CheckConstraint("kind IN ('fill', 'position', 'alert', 'correction', 'account')", name="kind"),
)

day_opens = Table(
    "day_opens",
    metadata,
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    Column("day", Date, nullable=False),
    Column("total_pnl", Numeric, nullable=False),
    PrimaryKeyConstraint("user_id", "day"),
    _finite("total_pnl"),
)

leases = Table(
    "leases",
    metadata,
    Column("role", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", _TIME, nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    Column("key", Text, nullable=False),
    Column("request_hash", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("user_id", "key"),
)
Index("ix_idempotency_keys_user_created", idempotency_keys.c.user_id, idempotency_keys.c.created_at)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("token_hash", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
    UniqueConstraint("token_hash"),
)
Index("ix_api_tokens_user", api_tokens.c.user_id, api_tokens.c.created_at)

# What the exchange settled, kept by the price worker. A stamp without a mark is not stored.
funding_rates = Table(
    "funding_rates",
    metadata,
    Column("symbol", Text, nullable=False),
    Column("at", _TIME, nullable=False),
    Column("rate", Numeric, nullable=False),
    Column("mark", Numeric, nullable=False),
    # The stamps of a long absence come late: whoever applies them asks for what is new by this.
    Column("stored_at", _TIME, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("symbol", "at"),
    _finite("rate"),
    _positive("mark"),
)
Index("ix_funding_rates_stored_at", funding_rates.c.stored_at)
Index(
    "ix_positions_contracts",
    positions.c.symbol,
    positions.c.opened_at,
    postgresql_where=text("market <> 'spot'"),
)

# Earlier forms of fills that were edited or deleted: added, never changed.
trade_revisions = Table(
    "trade_revisions",
    metadata,
    Column("fill_id", _ID, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    # What ended this form of the fill, when, why, and the event that told of it.
    Column("change", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", _TIME, nullable=False),
    Column("event_seq", BigInteger, nullable=False),
    # The fill as it was: ``trade`` of the contract.
    Column("data", JSONB, nullable=False),
    PrimaryKeyConstraint("fill_id", "revision"),
    CheckConstraint("change IN ('edited', 'deleted', 'retagged')", name="change"),
)
Index("ix_trade_revisions_user", trade_revisions.c.user_id, trade_revisions.c.at)

# What is left of deleted fills: their ids, so that none is ever recorded again.
deleted_trades = Table(
    "deleted_trades",
    metadata,
    Column("fill_id", _ID, primary_key=True),
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    Column("account_id", _ID, ForeignKey("accounts.id"), nullable=False),
    Column("symbol", Text, nullable=False),
    Column("trade_id", Text),
    Column("deleted_at", _TIME, nullable=False),
)
Index(
    "uq_deleted_trades_trade_id",
    deleted_trades.c.account_id,
    deleted_trades.c.symbol,
    deleted_trades.c.trade_id,
    unique=True,
    postgresql_where=text("trade_id IS NOT NULL"),
)

# What each position received (+) or paid (-) at each funding stamp: once, by the key.
funding_payments = Table(
    "funding_payments",
    metadata,
    Column("position_id", _ID, ForeignKey("positions.id"), nullable=False),
    Column("at", _TIME, nullable=False),
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    Column("symbol", Text, nullable=False),
    Column("signed_qty", Numeric, nullable=False),
    Column("mark", Numeric, nullable=False),
    Column("rate", Numeric, nullable=False),
    Column("amount", Numeric, nullable=False),
    Column("rate_to_reporting", Numeric),
    PrimaryKeyConstraint("position_id", "at"),
    _finite("signed_qty", "rate", "amount"),
    _positive("mark", "rate_to_reporting"),
)
Index("ix_funding_payments_user_at", funding_payments.c.user_id, funding_payments.c.at, funding_payments.c.position_id)

# Up to where each P&L worker has looked at what was settled, by the time it was stored.
funding_turns = Table(
    "funding_turns",
    metadata,
    Column("role", Text, primary_key=True),
    Column("stored_at", _TIME, nullable=False),
)

# The price of each symbol at the beginning of each UTC day, for corrections of what was before it.
day_marks = Table(
    "day_marks",
    metadata,
    Column("symbol", Text, nullable=False),
    Column("day", Date, nullable=False),
    Column("price", Numeric, nullable=False),
    PrimaryKeyConstraint("symbol", "day"),
    _positive("price"),
)

# History. A scope is an account, or (with the user's own id) all accounts of a user who has several.
history_scopes = Table(
    "history_scopes",
    metadata,
    Column("scope_id", _ID, primary_key=True),
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    Column("account_id", _ID, ForeignKey("accounts.id")),
    Column("started_at", _TIME, nullable=False),
    # Up to where minutes are summed up in hours, and hours in days.
    Column("hours_until", _TIME, nullable=False),
    Column("days_until", _TIME, nullable=False),
    # Where the ledger changed what is past: samples from there on are to be reckoned anew.
    Column("restate_from", _TIME),
    Column("corrected_at", _TIME),
    CheckConstraint("restate_from IS NULL OR corrected_at IS NOT NULL", name="corrected"),
)
Index("ix_history_scopes_user", history_scopes.c.user_id)
Index("ix_history_scopes_hours_until", history_scopes.c.hours_until)
Index("ix_history_scopes_days_until", history_scopes.c.days_until)
Index(
    "ix_history_scopes_restate_from",
    history_scopes.c.restate_from,
    postgresql_where=text("restate_from IS NOT NULL"),
)

# How often the past of an account was corrected, by where the correction begins.
history_revisions = Table(
    "history_revisions",
    metadata,
    Column("account_id", _ID, ForeignKey("accounts.id"), nullable=False),
    Column("since", _TIME, nullable=False),
    Column("revisions", Integer, nullable=False),
    PrimaryKeyConstraint("account_id", "since"),
    CheckConstraint("revisions > 0", name="positive"),
)


def _figures() -> list[Column[Any]]:
    """What a scope is worth at a moment; null where a price or a rate was not known."""
    return [
        Column("realized_pnl_gross", Numeric, nullable=False),
        Column("fees", Numeric, nullable=False),
        Column("funding", Numeric, nullable=False),
        Column("net_deposits", Numeric, nullable=False),
        Column("unrealized_pnl", Numeric),
        Column("fx_pnl", Numeric),
        Column("is_complete", Boolean, nullable=False),
        Column("is_stale", Boolean, nullable=False),
    ]


_FIGURES = ("realized_pnl_gross", "fees", "funding", "net_deposits", "unrealized_pnl", "fx_pnl")

equity_minutes = Table(
    "equity_minutes",
    metadata,
    Column("scope_id", _ID, nullable=False),
    Column("at", _TIME, nullable=False),
    *_figures(),
    # Of the worker that took the sample: an older one never replaces a newer one's.
    Column("epoch", BigInteger, nullable=False),
    PrimaryKeyConstraint("scope_id", "at"),
    _finite(*_FIGURES),
)

equity_candles = Table(
    "equity_candles",
    metadata,
    Column("scope_id", _ID, nullable=False),
    Column("resolution", Text, nullable=False),
    Column("at", _TIME, nullable=False),
    Column("opened_at", _TIME, nullable=False),
    Column("open", Numeric),
    Column("high", Numeric),
    Column("low", Numeric),
    Column("fall", Numeric, nullable=False),
    Column("fall_ppt", Numeric),
    *_figures(),
    PrimaryKeyConstraint("scope_id", "resolution", "at"),
    CheckConstraint("resolution IN ('hour', 'day')", name="resolution"),
    CheckConstraint("opened_at <= at", name="order"),
    _finite(*_FIGURES, "open", "high", "low", "fall", "fall_ppt"),
)

# The prices that values were sampled at: one row a minute per P&L shard, of the symbols it holds.
mark_minutes = Table(
    "mark_minutes",
    metadata,
    Column("at", _TIME, nullable=False),
    Column("role", Text, nullable=False),
    Column("symbols", ARRAY(Text), nullable=False),
    Column("prices", ARRAY(Numeric), nullable=False),
    PrimaryKeyConstraint("at", "role"),
    CheckConstraint("cardinality(symbols) = cardinality(prices)", name="pairs"),
)

# The lowest and highest unrealised profit that a sample saw of a position, in its settle asset. Without a foreign key:
# what is kept of a row that a correction took away is never looked at.
excursions = Table(
    "excursions",
    metadata,
    Column("position_id", _ID, primary_key=True),
    Column("worst", Numeric, nullable=False),
    Column("best", Numeric, nullable=False),
    CheckConstraint("worst <= best", name="order"),
    _finite("worst", "best"),
)

# Imports of fills: what was asked for, how far it is, what came of it.
imports = Table(
    "imports",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("user_id", _ID, ForeignKey("users.id"), nullable=False),
    Column("account_id", _ID, ForeignKey("accounts.id"), nullable=False),
    Column("state", Text, nullable=False),
    Column("is_dry_run", Boolean, nullable=False),
    # Null until it is found.
    Column("format", Text),
    Column("terms", JSONB, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("bytes_read", BigInteger, nullable=False, server_default=text("0")),
    # Rows of the file; null until all are read.
    Column("rows_total", BigInteger),
    Column("rows_read", BigInteger, nullable=False, server_default=text("0")),
    Column("rows_booked", BigInteger, nullable=False, server_default=text("0")),
    Column("repeated_in_file", BigInteger, nullable=False, server_default=text("0")),
    Column("repeated_in_ledger", BigInteger, nullable=False, server_default=text("0")),
    Column("errors", BigInteger, nullable=False, server_default=text("0")),
    Column("reason", Text),
    # Who works on it, and until when nobody else may.
    Column("holder", Text),
    Column("held_until", _TIME),
    Column("attempts", SmallInteger, nullable=False, server_default=text("0")),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
    Column("finished_at", _TIME),
    CheckConstraint("state IN ('waiting', 'running', 'done', 'refused', 'failed', 'cancelled')", name="state"),
    CheckConstraint("(state IN ('waiting', 'running')) = (finished_at IS NULL)", name="finished"),
    CheckConstraint("(state = 'running') = (holder IS NOT NULL)", name="holder"),
)
# One at a time for each user.
Index(
    "uq_imports_unfinished",
    imports.c.user_id,
    unique=True,
    postgresql_where=text("state IN ('waiting', 'running')"),
)
Index("ix_imports_user_created", imports.c.user_id, imports.c.created_at, imports.c.id)
Index(
    "ix_imports_unfinished",
    imports.c.created_at,
    postgresql_where=text("state IN ('waiting', 'running')"),
)

import_errors = Table(
    "import_errors",
    metadata,
    Column("import_id", _ID, ForeignKey("imports.id", ondelete="CASCADE"), nullable=False),
    Column("place", BigInteger, nullable=False),
    # Null where the file as a whole is meant.
    Column("row", BigInteger),
    Column("column", Text),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("import_id", "place"),
)
