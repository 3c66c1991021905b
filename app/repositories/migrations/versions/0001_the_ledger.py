"""The ledger: users, accounts, positions, trades, events, and what guards them.

There is no way down: a database is taken back by restoring a backup.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _finite(*columns: str) -> str:
    return " AND ".join(f"{column} > '-Infinity' AND {column} < 'Infinity'" for column in columns)


def _positive(*columns: str) -> str:
    return " AND ".join(f"{column} > 0 AND {column} < 'Infinity'" for column in columns)


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("role", name=op.f("pk_leases")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("ledger_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("ledger_changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    op.create_index("ix_users_ledger_changed_at", "users", ["ledger_changed_at"], unique=False)
    op.create_index("uq_users_username_lower", "users", [sa.literal_column("lower(username)")], unique=True)
    op.create_table(
        "accounts",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("position_mode", sa.Text(), server_default=sa.text("'one_way'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('manual', 'paper', 'exchange')", name=op.f("ck_accounts_kind")),
        sa.CheckConstraint("position_mode IN ('one_way', 'hedge')", name=op.f("ck_accounts_position_mode")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_accounts_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("user_id", "name", name=op.f("uq_accounts_user_id_name")),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_tokens_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_tokens_token_hash")),
    )
    op.create_index("ix_api_tokens_user", "api_tokens", ["user_id", "created_at"], unique=False)
    op.create_table(
        "day_opens",
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("total_pnl", sa.Numeric(), nullable=False),
        sa.CheckConstraint(_finite("total_pnl"), name=op.f("ck_day_opens_finite")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_day_opens_user_id")),
        sa.PrimaryKeyConstraint("user_id", "day", name=op.f("pk_day_opens")),
    )
    op.create_table(
        "events",
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint(
            "kind IN ('fill', 'position', 'alert', 'correction', 'account')", name=op.f("ck_events_kind")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_events_user_id")),
        sa.PrimaryKeyConstraint("user_id", "seq", name=op.f("pk_events")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_idempotency_keys_user_id")),
        sa.PrimaryKeyConstraint("user_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_user_created", "idempotency_keys", ["user_id", "created_at"], unique=False)
    op.create_table(
        "positions",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("market", sa.Text(), nullable=False),
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("quote", sa.Text(), nullable=False),
        sa.Column("settle", sa.Text(), nullable=False),
        sa.Column("multiplier", sa.Numeric(), nullable=False),
        sa.Column("tick_size", sa.Numeric(), nullable=False),
        sa.Column("step_size", sa.Numeric(), nullable=False),
        sa.Column("position_side", sa.Text(), server_default=sa.text("'net'"), nullable=False),
        sa.Column("strategy", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("signed_qty", sa.Numeric(), nullable=False),
        sa.Column("cost", sa.Numeric(), nullable=False),
        sa.Column("cash", sa.Numeric(), nullable=False),
        sa.Column("fees", sa.Numeric(), nullable=False),
        sa.Column("funding", sa.Numeric(), nullable=False),
        sa.Column(
            "fees_unpriced",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("realized_pnl_gross", sa.Numeric(), nullable=False),
        sa.Column("fees_published", sa.Numeric(), nullable=False),
        sa.Column("funding_published", sa.Numeric(), nullable=False),
        sa.Column("note", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("take_profit", sa.Numeric(), nullable=True),
        sa.Column("stop_loss", sa.Numeric(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(status = 'open') = (closed_at IS NULL)", name=op.f("ck_positions_closed_at")),
        sa.CheckConstraint("(status = 'open') = (signed_qty <> 0)", name=op.f("ck_positions_flat_is_closed")),
        sa.CheckConstraint("market IN ('spot', 'linear', 'inverse')", name=op.f("ck_positions_market")),
        sa.CheckConstraint(
            _positive("multiplier", "tick_size", "step_size", "take_profit", "stop_loss"),
            name=op.f("ck_positions_positive"),
        ),
        sa.CheckConstraint("position_side IN ('net', 'long', 'short')", name=op.f("ck_positions_position_side")),
        sa.CheckConstraint(
            _finite(
                "signed_qty",
                "cost",
                "cash",
                "fees",
                "funding",
                "realized_pnl_gross",
                "fees_published",
                "funding_published",
            ),
            name=op.f("ck_positions_finite"),
        ),
        sa.CheckConstraint("status IN ('open', 'closed')", name=op.f("ck_positions_status")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_positions_version")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_positions_account_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_positions_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_positions")),
    )
    op.create_index("ix_positions_symbol_status", "positions", ["symbol", "status"], unique=False)
    op.create_index("ix_positions_user_opened", "positions", ["user_id", "opened_at", "id"], unique=False)
    op.create_index(
        "ix_positions_user_status",
        "positions",
        ["user_id", "status", "opened_at", "id"],
        unique=False,
    )
    op.create_index(
        "uq_positions_open",
        "positions",
        ["account_id", "symbol", "position_side", "strategy"],
        unique=True,
        postgresql_where=sa.text("status = 'open'"),
    )
    op.create_table(
        "trades",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("position_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("opened_position_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=False),
        sa.Column("fee", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("fee_asset", sa.Text(), nullable=True),
        sa.Column("fee_rate", sa.Numeric(), nullable=True),
        sa.Column("executed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("trade_id", sa.Text(), nullable=True),
        sa.Column("strategy", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(_finite("fee"), name=op.f("ck_trades_finite")),
        sa.CheckConstraint(
            _positive("quantity", "price", "fee_rate"),
            name=op.f("ck_trades_positive"),
        ),
        sa.CheckConstraint("side IN ('buy', 'sell')", name=op.f("ck_trades_side")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_trades_account_id")),
        sa.ForeignKeyConstraint(["opened_position_id"], ["positions.id"], name=op.f("fk_trades_opened_position_id")),
        sa.ForeignKeyConstraint(["position_id"], ["positions.id"], name=op.f("fk_trades_position_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_trades_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trades")),
    )
    op.create_index(
        "ix_trades_opened_position",
        "trades",
        ["opened_position_id"],
        unique=False,
        postgresql_where=sa.text("opened_position_id IS NOT NULL"),
    )
    op.create_index("ix_trades_position", "trades", ["position_id"], unique=False)
    op.create_index("ix_trades_user_executed", "trades", ["user_id", "executed_at", "id"], unique=False)
    op.create_index(
        "ix_trades_user_symbol_executed",
        "trades",
        ["user_id", "symbol", "executed_at", "id"],
        unique=False,
    )
    op.create_index(
        "uq_trades_trade_id",
        "trades",
        ["account_id", "symbol", "trade_id"],
        unique=True,
        postgresql_where=sa.text("trade_id IS NOT NULL"),
    )
