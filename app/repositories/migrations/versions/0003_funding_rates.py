"""Settled funding of perpetuals, and an index of the positions that it may concern."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "funding_rates",
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rate", sa.Numeric(), nullable=False),
        sa.Column("mark", sa.Numeric(), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("rate > '-Infinity' AND rate < 'Infinity'", name=op.f("ck_funding_rates_finite")),
        sa.CheckConstraint("mark > 0 AND mark < 'Infinity'", name=op.f("ck_funding_rates_positive")),
        sa.PrimaryKeyConstraint("symbol", "at", name=op.f("pk_funding_rates")),
    )
    op.create_index("ix_funding_rates_stored_at", "funding_rates", ["stored_at"], unique=False)
    op.create_index(
        "ix_positions_contracts",
        "positions",
        ["symbol", "opened_at"],
        unique=False,
        postgresql_where=sa.text("market <> 'spot'"),
    )
