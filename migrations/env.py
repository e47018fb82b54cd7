"""Alembic's environment: runs migrations over the connection that `app.migrations` hands in. Reads no setting, opens no database."""

from __future__ import annotations

from alembic import context

from app.tables import metadata

connection = context.config.attributes["connection"]

context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",  # SQLite changes a table by copying it
    compare_type=True,
    render_item=context.config.attributes.get("render_item"),
)
context.run_migrations()
