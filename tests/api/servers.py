"""Real servers for the control plane's tests: PostgreSQL, and an app behind a socket."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError


def postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def postgres() -> Iterator[str]:
    """Yields the URL of a PostgreSQL server that only a socket in a private folder reaches."""
    programs = postgres_programs()
    assert programs is not None
    user = "nobody" if os.getuid() == 0 else None  # the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="cmaev-pg-"))
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    run: dict[str, Any] = {"user": user, "cwd": folder, "env": {"LC_ALL": "C", "PATH": "/usr/bin"}}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    initdb = [
        programs / "initdb",
        "-D",
        folder / "data",
        "-U",
        "cmaev",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "-N",
    ]
    subprocess.run(initdb, check=True, **run, **quiet)
    options = ["-c", "listen_addresses=", "-c", "fsync=off", "-k", folder]
    server = subprocess.Popen(
        [programs / "postgres", "-D", folder / "data", *options], **run, **quiet
    )
    try:
        url = f"postgresql+psycopg://cmaev@/postgres?host={folder}"
        _wait_for_postgres(url)
        yield url
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(folder)


def _wait_for_postgres(url: str) -> None:
    engine = create_engine(url)
    for _ in range(1200):
        try:
            with engine.connect():
                break
        except OperationalError as error:
            reason = error
            time.sleep(0.05)
    else:
        raise AssertionError(f"PostgreSQL did not start: {reason}")
    engine.dispose()


class Server:
    """An ASGI app behind a real socket, in a thread."""

    def __init__(self, app: Any, *, port: int = 0) -> None:
        self.socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
        self._thread = threading.Thread(target=self._server.run, args=([self.socket],))
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.socket.close()
