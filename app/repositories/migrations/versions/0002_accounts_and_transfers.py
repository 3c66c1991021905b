"""Several accounts per user, legs of hedge mode, transfers, and figures in the reporting currency.

Everything before this was reported in the currency it settled in, or not at
all: rows settled elsewhere are marked as not converted, for their rates were
never recorded.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_CONVERTED = ("converted_gross", "converted_fees", "converted_funding")
_REPORTED = ("reported_gross", "reported_fees", "reported_funding")


def upgrade() -> None:
    op.add_column("accounts", sa.Column("valuation", sa.Text(), server_default=sa.text("'auto'"), nullable=False))
    op.create_check_constraint(
        op.f("ck_accounts_valuation"), "accounts", "valuation IN ('auto', 'mid', 'last', 'mark', 'exit')"
    )
    _convert_positions()
    _extend_trades()
    _create_transfers()


def _convert_positions() -> None:
    for name in (*_CONVERTED, *_REPORTED):
        op.add_column("positions", sa.Column(name, sa.Numeric()))
    op.add_column("positions", sa.Column("is_converted", sa.Boolean(), server_default=sa.text("true"), nullable=False))
    op.create_check_constraint(
        op.f("ck_positions_converted_whole"),
        "positions",
        "num_nulls(converted_gross, converted_fees, converted_funding,"
        " reported_gross, reported_fees, reported_funding) IN (0, 6)",
    )
    zeros = ", ".join(f"{name} = 0" for name in (*_CONVERTED, *_REPORTED))
    op.execute(
        f"UPDATE positions p SET {zeros}, is_converted = (p.cash + p.cost = 0 AND p.fees = 0 AND p.funding = 0) "  # noqa: S608 - Names from above.
        "FROM accounts a WHERE a.id = p.account_id AND a.currency <> p.settle"
    )


def _extend_trades() -> None:
    op.add_column("trades", sa.Column("position_side", sa.Text(), server_default=sa.text("'net'"), nullable=False))
    op.add_column("trades", sa.Column("rate_to_reporting", sa.Numeric()))
    op.create_check_constraint(op.f("ck_trades_position_side"), "trades", "position_side IN ('net', 'long', 'short')")
    op.drop_constraint(op.f("ck_trades_positive"), "trades")
    op.create_check_constraint(
        op.f("ck_trades_positive"),
        "trades",
        " AND ".join(
            f"{name} > 0 AND {name} < 'Infinity'" for name in ("quantity", "price", "fee_rate", "rate_to_reporting")
        ),
    )


def _create_transfers() -> None:
    op.create_table(
        "transfers",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("rate_to_reporting", sa.Numeric(), nullable=True),
        sa.Column("reported", sa.Numeric(), nullable=True),
        sa.Column("note", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("other_account_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "kind IN ('deposit', 'withdrawal', 'internal', 'adjustment')", name=op.f("ck_transfers_kind")
        ),
        sa.CheckConstraint(
            "(kind = 'internal') = (other_account_id IS NOT NULL)", name=op.f("ck_transfers_other_account")
        ),
        sa.CheckConstraint("(rate_to_reporting IS NULL) = (reported IS NULL)", name=op.f("ck_transfers_reported")),
        sa.CheckConstraint("amount > '-Infinity' AND amount < 'Infinity'", name=op.f("ck_transfers_finite")),
        sa.CheckConstraint(
            "rate_to_reporting > 0 AND rate_to_reporting < 'Infinity'", name=op.f("ck_transfers_positive")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_transfers_user_id")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_transfers_account_id")),
        sa.ForeignKeyConstraint(["other_account_id"], ["accounts.id"], name=op.f("fk_transfers_other_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfers")),
    )
    op.create_index("ix_transfers_account_at", "transfers", ["account_id", "at", "id"])
    op.create_index("ix_transfers_user", "transfers", ["user_id"])
