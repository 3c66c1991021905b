"""Imports of fills: what was asked for, how far it is, what came of it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_UNFINISHED = sa.text("state IN ('waiting', 'running')")


def upgrade() -> None:
    _create_imports()
    _create_import_errors()


def _create_imports() -> None:
    time = sa.DateTime(timezone=True)
    counts = ("bytes_read", "rows_read", "rows_booked", "repeated_in_file", "repeated_in_ledger", "errors")
    op.create_table(
        "imports",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("is_dry_run", sa.Boolean(), nullable=False),
        sa.Column("format", sa.Text(), nullable=True),
        sa.Column("terms", postgresql.JSONB(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("rows_total", sa.BigInteger(), nullable=True),
        *(sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False) for name in counts),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("held_until", time, nullable=True),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", time, server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", time, nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'done', 'refused', 'failed', 'cancelled')", name=op.f("ck_imports_state")
        ),
        sa.CheckConstraint(
            "(state IN ('waiting', 'running')) = (finished_at IS NULL)", name=op.f("ck_imports_finished")
        ),
        sa.CheckConstraint("(state = 'running') = (holder IS NOT NULL)", name=op.f("ck_imports_holder")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_imports_account_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_imports_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
    )
    op.create_index("uq_imports_unfinished", "imports", ["user_id"], unique=True, postgresql_where=_UNFINISHED)
    op.create_index("ix_imports_unfinished", "imports", ["created_at"], postgresql_where=_UNFINISHED)
    op.create_index("ix_imports_user_created", "imports", ["user_id", "created_at", "id"])


def _create_import_errors() -> None:
    op.create_table(
        "import_errors",
        sa.Column("import_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("row", sa.BigInteger(), nullable=True),
        sa.Column("column", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["import_id"], ["imports.id"], name=op.f("fk_import_errors_import_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("import_id", "place", name=op.f("pk_import_errors")),
    )
