"""What alembic runs: every pending migration in one transaction, one process at a time."""

from alembic import context
from sqlalchemy import Engine, text

from cmaev_api.tables import Base

LOCK = 7_263_548


def run(engine: Engine) -> None:
    """Takes the write lock of the database, then migrates."""
    with engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        context.configure(connection=connection, target_metadata=Base.metadata)
        context.run_migrations()


run(context.config.attributes["engine"])
