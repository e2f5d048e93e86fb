"""Database sessions: one transaction per request or sweep, and what happens after its commit.

Endpoints and sweepers own transactions; services and repositories only use the session they are
given. Whatever must not happen unless the commit did (sending a Celery task) is registered with
`after_commit`.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session, sessionmaker

AFTER_COMMIT = "after_commit"
BUSY_SECONDS = 15


class Database:
    """An engine with reading and writing sessions."""

    def __init__(self, url: str) -> None:
        self.engine = _create_engine(url)
        writing = self.engine.execution_options(begin="BEGIN IMMEDIATE")
        self._readers = sessionmaker(self.engine, expire_on_commit=False)
        self._writers = sessionmaker(writing, expire_on_commit=False)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session whose changes, if any, are thrown away."""
        with self._readers() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that is committed at the end, or rolled back on an error.

        On SQLite it holds the write lock from its first query, so that what it read stays true.
        """
        with self._writers() as session:
            with session.begin():
                yield session
            hooks: list[Callable[[], object]] = session.info.pop(AFTER_COMMIT, [])
        for hook in hooks:
            hook()

    def close(self) -> None:
        """Closes the pooled connections."""
        self.engine.dispose()


def after_commit(session: Session, hook: Callable[[], object]) -> None:
    """Calls `hook` once the transaction of `session` is committed, never otherwise."""
    session.info.setdefault(AFTER_COMMIT, []).append(hook)


def _create_engine(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=30)
    engine = create_engine(
        url, pool_size=10, max_overflow=30, connect_args={"timeout": BUSY_SECONDS}
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # this module says BEGIN itself
    _switch_to_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _switch_to_wal(connection: Any) -> None:
    """Waits where another connection switches, too, which SQLite refuses at once instead."""
    deadline = monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                raise
            sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
