"""`cmaev serve` as a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from cmaev_api.client import ApiError, Client
from cmaev_api.commands.serve import listen
from cmaev_spec import lifeline
from cmaev_spec.ports import free_port

SERVE = [
    sys.executable,
    "-c",
    "import typer; from cmaev_api.cli import register\n"
    "app = typer.Typer(); register(app); app(['serve'])",
]


def wait_for(url, process):
    for _ in range(1200):
        assert process.poll() is None, process.stderr.read().decode()
        try:
            return httpx.get(f"{url}/healthz")
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("it did not start")


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def environment(tmp_path, redis_url, port):
    return {
        **os.environ,
        "CMAEV_STATE_DIR": str(tmp_path / "state"),
        "CMAEV_REDIS_URL": redis_url,
        "CMAEV_PORT": str(port),
    }


@pytest.fixture
def served(environment):
    child = lifeline.spawn(SERVE, env=environment, stderr=subprocess.PIPE)
    yield child.process
    child.process.stderr.close()
    child.close()


def test_serve_starts_answers_and_stops_cleanly(served, environment, port, tmp_path):
    url = f"http://127.0.0.1:{port}"
    assert wait_for(url, served).json() == {"status": "ok"}
    with Client(url, (tmp_path / "state" / "api-key").read_text()) as client:
        assert client.jobs() == []
        with pytest.raises(ApiError, match="there is no job 'x'"):
            client.job("x")
    taken = subprocess.run(SERVE, env=environment, capture_output=True, text=True)
    assert taken.returncode != 0
    assert "CMAEV_PORT" in taken.stderr
    served.send_signal(signal.SIGTERM)
    _out, err = served.communicate(timeout=60)
    lines = [json.loads(line) for line in err.decode().splitlines()]
    assert served.returncode in {0, -signal.SIGTERM}
    assert lines[0]["event"] == "listening"
    assert {line["level"] for line in lines} <= {"info"}


def test_small_answers_do_not_wait_for_nagle():
    """Only on sockets that name their protocol does asyncio switch Nagle's delay off."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.proto == socket.IPPROTO_TCP


def test_serve_ends_with_its_parent(environment, port):
    code = (
        "import sys, time; from cmaev_spec import lifeline\n"
        f"child = lifeline.spawn({SERVE!r}); print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    url = f"http://127.0.0.1:{port}"
    for _ in range(1200):
        try:
            httpx.get(f"{url}/healthz")
            break
        except httpx.TransportError:
            time.sleep(0.05)
    parent.kill()
    parent.communicate()
    for _ in range(1200):
        if not os.path.exists(f"/proc/{pid}"):
            return
        time.sleep(0.05)
    raise AssertionError("serve outlived its parent")
