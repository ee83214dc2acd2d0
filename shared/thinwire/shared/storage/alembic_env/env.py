"""Run by Alembic for every migration, within the transaction that `thinwire.shared.storage.migrations` opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
