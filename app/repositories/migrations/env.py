"""What alembic runs around each migration. The connection comes from app.repositories.migrate."""

from alembic import context

from app.repositories.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)

# The caller's transaction is the transaction: all migrations happen, or none.
context.run_migrations()
