"""The application as a whole: light to import, described, and calm when things break."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fastapi.routing
import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cmaev_api.app import create_app
from cmaev_api.settings import Settings, load_settings
from cmaev_spec.exits import BadInput

SNAPSHOT = Path(__file__).parent / "openapi.json"
REGENERATE = "CMAEV_WRITE_OPENAPI"


def test_the_import_is_light_and_does_nothing():
    code = (
        "import cmaev_api.app, sys, threading\n"
        "heavy = {'torch', 'numpy', 'av', 'cmaev', 'cmaev_serving', 'cmaev_trainer'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_making_the_app_connects_to_nothing_and_writes_nothing(tmp_path):
    url = "postgresql://nobody@127.0.0.1:9/none"
    app = create_app(
        Settings(state_dir=tmp_path / "s", database_url=url, redis_url="redis://127.0.0.1:9")
    )
    assert app.openapi()["info"]["title"] == "cmaev"
    assert list(tmp_path.iterdir()) == []


def test_requests_find_their_routes_built(settings, start, monkeypatch):
    """Building them is not safe in two threads, as two control planes of a process would."""
    built = []
    build = fastapi.routing.get_dependant

    def record(**options):
        built.append(options["path"])
        return build(**options)

    monkeypatch.setattr(fastapi.routing, "get_dependant", record)
    live = start(settings)
    assert "/v1/jobs" in built
    built.clear()
    assert live.user.get("/v1/jobs").status_code == 200
    assert live.worker.post("/v1/attempts/none:heartbeat", json={"token": 1}).status_code == 404
    assert built == []


def test_the_description_is_what_clients_were_promised():
    """After a change that is meant: CMAEV_WRITE_OPENAPI=1 pytest tests/api/test_app.py."""
    text = json.dumps(create_app(Settings()).openapi(), indent=1, sort_keys=True) + "\n"
    if os.environ.get(REGENERATE):
        SNAPSHOT.write_text(text)
    assert json.loads(SNAPSHOT.read_text()) == json.loads(text), (
        f"set {REGENERATE}=1 if it is meant"
    )


def test_every_setting_is_described():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CMAEV_PORT", "99999", "CMAEV_PORT: "),
        ("CMAEV_DATABASE_URL", "mysql://x", "must start with sqlite:/// or postgresql://"),
        ("CMAEV_LEASE_SECONDS", "1", "CMAEV_HEARTBEAT_SECONDS must be less"),
    ],
)
def test_a_wrong_setting_names_its_variable(monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=words):
        load_settings()


def test_an_unknown_route_and_a_wrong_method_are_problems(plane):
    for method, path, status in (("GET", "/v1/nothing", 404), ("PATCH", "/v1/jobs", 405)):
        response = plane.user.request(method, path)
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert path in response.json()["detail"]


def test_an_unexpected_error_tells_the_request_and_nothing_else(plane, monkeypatch):
    def explode(*_arguments):
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("cmaev_api.jobs.service.JobService.read", explode)
    response = plane.user.get("/v1/jobs/x", headers={"X-Request-ID": "abc-1"})
    assert response.status_code == 500
    assert "abc-1" in response.json()["detail"]
    assert "hunter2" not in response.text


def test_a_failed_request_leaves_nothing_behind(plane, specs, sent, monkeypatch):
    def explode(*_arguments):
        raise RuntimeError("after the insert, before the commit")

    monkeypatch.setattr("cmaev_api.jobs.service.JobService.read", explode)
    assert plane.user.post("/v1/jobs", json=specs()).status_code == 500
    assert plane.user.get("/v1/jobs").json()["items"] == []
    assert sent() == []


def test_nothing_is_promised_before_it_is_committed(plane, specs, sent):
    def fail(session):
        if not session.in_nested_transaction():
            raise OperationalError("COMMIT", {}, Exception("disk full"))

    event.listen(Session, "before_commit", fail)
    try:
        assert plane.user.post("/v1/jobs", json=specs()).status_code == 503
    finally:
        event.remove(Session, "before_commit", fail)
    assert sent() == []
    assert plane.user.get("/v1/jobs").json()["items"] == []


def test_a_database_that_is_away_means_try_again(plane, monkeypatch):
    def away(*_arguments, **_options):
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    monkeypatch.setattr("cmaev_api.jobs.repository.JobRepository.page", away)
    response = plane.user.get("/v1/jobs")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")


def test_probes_metrics_and_status(serving_plane, specs):
    user = serving_plane.user
    user.post("/v1/jobs", json=specs())
    assert user.get("/healthz").json() == {"status": "ok"}
    assert user.get("/readyz").json() == {"ready": True, "database": "ok", "broker": "ok"}
    metrics = user.get("/metrics").text
    assert 'cmaev_jobs{kind="pretrain",state="queued"} 1.0' in metrics
    assert 'route="/v1/jobs"' in metrics
    status = user.get("/v1/status").json()
    assert status["serving"] == {"backend": "inprocess", "ready": True, "detail": "fake"}
    assert status["free_bytes"] > 0
    assert status["workers"] == 0


def test_what_a_restart_finds_is_what_was_there(start, settings, specs):
    job = start(settings).user.post("/v1/jobs", json=specs()).json()
    assert start(settings).job(job["id"]) == job
