"""Fills that come late, are edited or deleted; and what funding paid."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_CHAIN = ("account_id", "symbol", "position_side", "strategy")


def upgrade() -> None:
    op.add_column("trades", sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False))
    op.create_index("ix_trades_chain", "trades", [*_CHAIN, "executed_at", "created_at", "id"])
    op.create_index("ix_positions_chain", "positions", [*_CHAIN, "opened_at"])
    _create_revisions()
    _create_funding_payments()
    op.create_table(
        "day_marks",
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=False),
        sa.CheckConstraint("price > 0 AND price < 'Infinity'", name=op.f("ck_day_marks_positive")),
        sa.PrimaryKeyConstraint("symbol", "day", name=op.f("pk_day_marks")),
    )


def _create_revisions() -> None:
    op.create_table(
        "trade_revisions",
        sa.Column("fill_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.CheckConstraint("change IN ('edited', 'deleted', 'retagged')", name=op.f("ck_trade_revisions_change")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_trade_revisions_user_id")),
        sa.PrimaryKeyConstraint("fill_id", "revision", name=op.f("pk_trade_revisions")),
    )
    op.create_index("ix_trade_revisions_user", "trade_revisions", ["user_id", "at"])
    op.create_table(
        "deleted_trades",
        sa.Column("fill_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("trade_id", sa.Text(), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_deleted_trades_account_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_deleted_trades_user_id")),
        sa.PrimaryKeyConstraint("fill_id", name=op.f("pk_deleted_trades")),
    )
    op.create_index(
        "uq_deleted_trades_trade_id",
        "deleted_trades",
        ["account_id", "symbol", "trade_id"],
        unique=True,
        postgresql_where=sa.text("trade_id IS NOT NULL"),
    )


def _create_funding_payments() -> None:
    op.create_table(
        "funding_payments",
        sa.Column("position_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("signed_qty", sa.Numeric(), nullable=False),
        sa.Column("mark", sa.Numeric(), nullable=False),
        sa.Column("rate", sa.Numeric(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("rate_to_reporting", sa.Numeric(), nullable=True),
        sa.CheckConstraint(
            " AND ".join(f"{name} > '-Infinity' AND {name} < 'Infinity'" for name in ("signed_qty", "rate", "amount")),
            name=op.f("ck_funding_payments_finite"),
        ),
        sa.CheckConstraint(
            " AND ".join(f"{name} > 0 AND {name} < 'Infinity'" for name in ("mark", "rate_to_reporting")),
            name=op.f("ck_funding_payments_positive"),
        ),
        sa.ForeignKeyConstraint(["position_id"], ["positions.id"], name=op.f("fk_funding_payments_position_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_funding_payments_user_id")),
        sa.PrimaryKeyConstraint("position_id", "at", name=op.f("pk_funding_payments")),
    )
    op.create_index("ix_funding_payments_user_at", "funding_payments", ["user_id", "at", "position_id"])
    op.create_table(
        "funding_turns",
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("role", name=op.f("pk_funding_turns")),
    )
