"""History: what accounts were worth, at which marks, and the time zone of a user's days."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_FIGURES = ("realized_pnl_gross", "fees", "funding", "net_deposits")


def _finite(*columns: str) -> str:
    return " AND ".join(f"{column} > '-Infinity' AND {column} < 'Infinity'" for column in columns)


def upgrade() -> None:
    op.add_column("users", sa.Column("time_zone", sa.Text(), server_default=sa.text("'UTC'"), nullable=False))
    _create_scopes()
    _create_samples()
    _create_marks()


def _create_scopes() -> None:
    op.create_table(
        "history_scopes",
        sa.Column("scope_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False)),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("hours_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("days_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("restate_from", sa.DateTime(timezone=True)),
        sa.Column("corrected_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "restate_from IS NULL OR corrected_at IS NOT NULL", name=op.f("ck_history_scopes_corrected")
        ),
        sa.PrimaryKeyConstraint("scope_id", name=op.f("pk_history_scopes")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_history_scopes_user_id")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_history_scopes_account_id")),
    )
    op.create_index("ix_history_scopes_user", "history_scopes", ["user_id"])
    op.create_index("ix_history_scopes_hours_until", "history_scopes", ["hours_until"])
    op.create_index("ix_history_scopes_days_until", "history_scopes", ["days_until"])
    op.create_index(
        "ix_history_scopes_restate_from",
        "history_scopes",
        ["restate_from"],
        postgresql_where=sa.text("restate_from IS NOT NULL"),
    )
    op.create_table(
        "history_revisions",
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revisions", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "since", name=op.f("pk_history_revisions")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_history_revisions_account_id")),
        sa.CheckConstraint("revisions > 0", name=op.f("ck_history_revisions_positive")),
    )


def _figures() -> list[sa.Column[Any]]:
    return [
        *(sa.Column(name, sa.Numeric(), nullable=False) for name in _FIGURES),
        sa.Column("unrealized_pnl", sa.Numeric()),
        sa.Column("fx_pnl", sa.Numeric()),
        sa.Column("is_complete", sa.Boolean(), nullable=False),
        sa.Column("is_stale", sa.Boolean(), nullable=False),
    ]


def _create_samples() -> None:
    op.create_table(
        "equity_minutes",
        sa.Column("scope_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        *_figures(),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope_id", "at", name=op.f("pk_equity_minutes")),
        sa.CheckConstraint(_finite(*_FIGURES, "unrealized_pnl", "fx_pnl"), name=op.f("ck_equity_minutes_finite")),
    )
    op.create_table(
        "equity_candles",
        sa.Column("scope_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("resolution", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("open", sa.Numeric()),
        sa.Column("high", sa.Numeric()),
        sa.Column("low", sa.Numeric()),
        sa.Column("fall", sa.Numeric(), nullable=False),
        sa.Column("fall_ppt", sa.Numeric()),
        *_figures(),
        sa.PrimaryKeyConstraint("scope_id", "resolution", "at", name=op.f("pk_equity_candles")),
        sa.CheckConstraint("resolution IN ('hour', 'day')", name=op.f("ck_equity_candles_resolution")),
        sa.CheckConstraint("opened_at <= at", name=op.f("ck_equity_candles_order")),
        sa.CheckConstraint(
            _finite(*_FIGURES, "unrealized_pnl", "fx_pnl", "open", "high", "low", "fall", "fall_ppt"),
            name=op.f("ck_equity_candles_finite"),
        ),
    )


def _create_marks() -> None:
    op.create_table(
        "mark_minutes",
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("symbols", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("prices", postgresql.ARRAY(sa.Numeric()), nullable=False),
        sa.PrimaryKeyConstraint("at", "role", name=op.f("pk_mark_minutes")),
        sa.CheckConstraint("cardinality(symbols) = cardinality(prices)", name=op.f("ck_mark_minutes_pairs")),
    )
    op.create_table(
        "excursions",
        sa.Column("position_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("worst", sa.Numeric(), nullable=False),
        sa.Column("best", sa.Numeric(), nullable=False),
        sa.PrimaryKeyConstraint("position_id", name=op.f("pk_excursions")),
        sa.CheckConstraint("worst <= best", name=op.f("ck_excursions_order")),
        sa.CheckConstraint(_finite("worst", "best"), name=op.f("ck_excursions_finite")),
    )
