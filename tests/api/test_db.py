"""Transactions and migrations, on both databases."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from cmaev_api.db import Database, after_commit
from cmaev_api.migrations import upgrade
from cmaev_api.tables import ApiKey, Base, utc_now


@pytest.fixture
def database(any_database_url):
    database = Database(any_database_url)
    yield database
    database.close()


def key(name):
    return ApiKey(id=name, name=name, digest="d", scopes=["admin"], created_at=utc_now())


UPGRADE = (
    "import sys; from cmaev_api.db import Database; from cmaev_api.migrations import upgrade\n"
    "upgrade(Database(sys.argv[1]).engine)"
)


def test_migrations_make_the_tables_of_the_code_even_when_replicas_start_at_once(database):
    url = database.engine.url.render_as_string(hide_password=False)
    starts = [subprocess.Popen([sys.executable, "-c", UPGRADE, url]) for _ in range(3)]
    assert [start.wait() for start in starts] == [0, 0, 0]
    with database.engine.connect() as connection:
        difference = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert difference == []


def test_a_start_waits_for_another_that_makes_the_file(tmp_path, monkeypatch):
    path = tmp_path / "db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("cmaev_api.db.sleep", lambda _seconds: other.rollback())
    database = Database(f"sqlite:///{path}")
    with database.read() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
    database.close()
    other.close()


def test_hooks_run_after_the_commit_and_only_then(database):
    upgrade(database.engine)
    seen = []

    def look():
        with database.read() as other:
            seen.append(other.get(ApiKey, "a") is not None)

    with database.write() as session:
        session.add(key("a"))
        after_commit(session, look)
        assert seen == []
    assert seen == [True]

    def fail():
        with database.write() as session:
            session.add(key("b"))
            after_commit(session, look)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert seen == [True]
    with database.read() as session:
        assert session.get(ApiKey, "b") is None


def test_a_moment_keeps_its_zone(database):
    upgrade(database.engine)
    now = utc_now()
    with database.write() as session:
        session.add(ApiKey(id="a", name="a", digest="d", scopes=["admin"], created_at=now))
    with database.read() as session:
        assert session.get(ApiKey, "a").created_at == now


def test_sqlite_writers_wait_for_each_other_and_lose_nothing(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'db'}")
    with database.write() as session:
        session.execute(text("CREATE TABLE counter (n INTEGER)"))
        session.execute(text("INSERT INTO counter VALUES (0)"))

    def count(_number):
        with database.write() as session:
            n = session.scalar(text("SELECT n FROM counter"))
            session.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(100)))
    with database.read() as session:
        assert session.scalar(text("SELECT n FROM counter")) == 100
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
    database.close()
