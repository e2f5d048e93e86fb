"""The agent with its own workers: the whole protocol, and workers that hang or die."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cmaev_serving.archive import HANDLER_MEMBER, build_archive
from cmaev_serving.export import ExportResult
from cmaev_spec.serving_protocol import Classification

PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def agent(start_agent: Callable[..., Any], exported: ExportResult) -> Any:
    agent = start_agent(
        backend="inprocess",
        timeout_seconds=PATIENCE_SECONDS,
        drain_seconds=PATIENCE_SECONDS,
        max_upload_bytes=300_000,
        max_archive_bytes=20 << 20,
        max_queue=2,
    )
    agent.wait_until_ready()
    response = agent.deploy(exported.archive)
    assert response.status_code == 200, (response.text, agent.log.read_text())
    return agent


def problem(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["fix"]
    return body


def only_worker(agent: Any) -> psutil.Process:
    """The worker of the one model, once it has loaded it and waits for requests."""
    (model,) = agent.client.get("/models").json()
    assert model["status"] == "ready", model
    (worker,) = agent.workers()
    assert isinstance(worker, psutil.Process)
    return worker


def wait_for_open(agent: Any, count: int) -> None:
    """Waits until the agent holds the videos of `count` requests."""
    agent.wait_for(lambda: len(list((agent.state / "spool").iterdir())) == count, what="requests")


class Asking:
    """A request in a thread of its own."""

    def __init__(self, agent: Any, video: bytes) -> None:
        self._response: list[httpx.Response] = []
        self._thread = threading.Thread(target=lambda: self._response.append(agent.classify(video)))
        self._thread.start()

    def done(self) -> bool:
        return not self._thread.is_alive()

    def response(self) -> httpx.Response:
        self._thread.join()
        (response,) = self._response
        return response


def test_it_classifies(agent: Any, video_bytes: bytes) -> None:
    response = agent.classify(video_bytes, top_k=2)
    answer = Classification.model_validate_json(response.content)
    assert len(answer.predictions) == 2
    assert (answer.model, answer.version) == ("shapes", "1")
    assert list((agent.state / "spool").iterdir()) == []


def test_status_and_list(agent: Any, exported: ExportResult) -> None:
    assert agent.client.get("/readyz").json() == {
        "backend": "inprocess",
        "ready": True,
        "detail": "",
    }
    (model,) = agent.client.get("/models").json()
    assert (model["name"], model["version"], model["status"]) == ("shapes", "1", "ready")


def test_small_answers_do_not_wait_for_nagle(agent: Any) -> None:
    """With Nagle's delay on the agent's side none would take less than 40 ms."""
    seconds = []
    for _ in range(100):
        begin = time.perf_counter()
        agent.client.get("/healthz")
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.03


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic a-token-for-the-tests", "Bearer"])
def test_only_healthz_is_open(agent: Any, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    with httpx.Client(base_url=agent.client.base_url, headers=headers, trust_env=False) as stranger:
        assert stranger.get("/healthz").json() == {"status": "ok"}
        for method, path in (
            ("GET", "/readyz"),
            ("GET", "/models"),
            ("DELETE", "/models/shapes"),
            ("PUT", "/models/shapes/versions/9"),
            ("POST", "/models/shapes:classify"),
        ):
            response = stranger.request(method, path)
            assert problem(response, 401)["field"] == "Authorization"
            assert response.headers["www-authenticate"] == "Bearer"


def test_broken_videos_are_422(agent: Any, broken: dict[str, bytes]) -> None:
    for body in broken.values():
        assert problem(agent.classify(body), 422)["field"] == "body"


def test_bad_requests_name_the_field(agent: Any, video_bytes: bytes) -> None:
    assert "shapes" in problem(agent.classify(video_bytes, name="missing"), 404)["detail"]
    assert problem(agent.classify(b""), 400)["field"] == "body"
    assert problem(agent.classify(bytes(300_001)), 413)["field"] == "body"
    assert problem(agent.classify(video_bytes, top_k=0), 422)["field"] == "top_k"
    assert problem(agent.client.get("/nowhere"), 404)
    assert problem(agent.client.get("/models/shapes:classify"), 405)
    assert problem(agent.classify(video_bytes, name="..%2f..%2fetc"), 404)
    assert list((agent.state / "spool").iterdir()) == []


def test_a_body_without_a_length_is_limited_too(agent: Any) -> None:
    def chunks() -> Any:
        for _ in range(100):
            yield bytes(10_000)

    assert problem(agent.client.post("/models/shapes:classify", content=chunks()), 413)


def test_archives_are_checked_before_they_are_loaded(
    agent: Any, exported: ExportResult, tmp_path: Path
) -> None:
    assert exported.archive is not None
    url = "/models/other/versions/1"
    data = exported.archive.read_bytes()
    response = agent.client.put(url, content=data, headers={"X-Content-SHA256": "0" * 64})
    assert problem(response, 400)["field"] == "X-Content-SHA256"
    assert problem(agent.client.put(url, content=data), 422)["field"] == "X-Content-SHA256"
    text = tmp_path / "text.mar"
    text.write_bytes(b"not a zip")
    assert "not a .mar file" in problem(agent.deploy(text, name="other"), 422)["detail"]
    forged = tmp_path / "forged.mar"
    forged.write_bytes(data.replace(b"import handle", b"import hacked"))
    assert problem(agent.deploy(forged, name="other"), 422)
    assert HANDLER_MEMBER.encode() in data
    assert problem(agent.deploy(exported.archive, name="Other Name"), 422)["field"] == "name"
    assert len(agent.client.get("/models").json()) == 1


def test_a_model_that_does_not_load_leaves_the_old_one(
    agent: Any, exported: ExportResult, video_bytes: bytes, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model at all")
    build_archive(tmp_path / "model.onnx", tmp_path / "bad.mar", name="shapes")
    body = problem(agent.deploy(tmp_path / "bad.mar", version="2"), 422)
    assert "not a model that ONNX Runtime reads" in body["detail"]
    assert agent.classify(video_bytes).json()["version"] == "1"
    assert len(list((agent.state / "models").iterdir())) == 1
    assert len(agent.workers()) == 1


def test_a_version_is_never_overwritten(agent: Any, exported: ExportResult, tmp_path: Path) -> None:
    assert exported.archive is not None
    assert agent.deploy(exported.archive).status_code == 200
    build_archive(exported.onnx, tmp_path / "other.mar", name="shapes", version="7")
    assert problem(agent.deploy(tmp_path / "other.mar"), 409)["field"] == "version"


def test_a_worker_killed_while_idle_costs_no_request(agent: Any, video_bytes: bytes) -> None:
    worker = only_worker(agent)
    worker.kill()
    agent.wait_for(lambda: worker.status() == psutil.STATUS_ZOMBIE, what="the worker's end")
    assert agent.classify(video_bytes).status_code == 200


def test_a_worker_killed_before_it_takes_a_request_costs_none(
    agent: Any, video_bytes: bytes
) -> None:
    worker = only_worker(agent)
    worker.suspend()
    asking = Asking(agent, video_bytes)
    wait_for_open(agent, 1)
    time.sleep(0.3)  # most likely it lies in the worker's socket by now; the answer is the same
    worker.kill()
    assert asking.response().status_code == 200


def test_a_hanging_worker_is_killed_and_replaced(
    start_agent: Callable[..., Any], exported: ExportResult, video_bytes: bytes
) -> None:
    impatient = start_agent(backend="inprocess", timeout_seconds=2)
    impatient.wait_until_ready()
    assert impatient.deploy(exported.archive).status_code == 200
    worker = only_worker(impatient)
    worker.suspend()
    assert "2 seconds" in problem(impatient.classify(video_bytes), 504)["detail"]
    impatient.wait_for(
        lambda: impatient.client.get("/models").json()[0]["status"] == "ready", what="the next one"
    )
    assert only_worker(impatient).pid != worker.pid
    assert not worker.is_running()
    impatient.wait_for(
        lambda: impatient.classify(video_bytes).status_code == 200, what="an answer within 2 s"
    )
    assert impatient.stop() == 0


def test_a_worker_that_dies_of_a_video_costs_only_that_request(
    agent: Any, video_bytes: bytes
) -> None:
    spool = str(agent.state / "spool")

    def kill_while_it_reads() -> httpx.Response:
        worker = only_worker(agent)
        asking = Asking(agent, video_bytes)
        while not asking.done():
            if any(spool in file.path for file in worker.open_files()):
                worker.kill()
                break
        return asking.response()

    deadline = time.monotonic() + PATIENCE_SECONDS
    while (response := kill_while_it_reads()).status_code == 200:
        assert time.monotonic() < deadline, "the worker was never seen with a video in its hands"
        assert agent.classify(video_bytes).status_code == 200  # misses one killed too late
    assert "died" in problem(response, 503)["detail"]
    assert int(response.headers["retry-after"]) > 0
    assert agent.classify(video_bytes).status_code == 200


def test_more_requests_than_the_queue_holds_are_sent_away(agent: Any, video_bytes: bytes) -> None:
    worker = only_worker(agent)
    worker.suspend()
    first, second = Asking(agent, video_bytes), Asking(agent, video_bytes)
    wait_for_open(agent, 2)
    assert "2 videos" in problem(agent.classify(video_bytes), 503)["detail"]
    worker.resume()
    assert (first.response().status_code, second.response().status_code) == (200, 200)


def test_sigterm_lets_open_requests_end_and_leaves_no_process(
    agent: Any, video_bytes: bytes
) -> None:
    processes = agent.processes()
    worker = only_worker(agent)
    worker.suspend()
    asking = Asking(agent, video_bytes)
    wait_for_open(agent, 1)
    agent.child.process.send_signal(signal.SIGTERM)
    agent.wait_for(lambda: not agent.listens(), what="the end of new connections")
    worker.resume()
    assert asking.response().status_code == 200
    assert agent.child.process.wait(PATIENCE_SECONDS) == 0
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)
    assert alive == []


def test_models_come_back_after_kill_9_and_leftovers_go(
    agent: Any,
    start_agent: Callable[..., Any],
    run_agent: Callable[..., "subprocess.CompletedProcess[str]"],
    video_bytes: bytes,
) -> None:
    """Runs after the agent was stopped, in its folder."""
    for folder, name in (("spool", "leftover"), ("models", "unknown.mar")):
        (agent.state / folder / name).write_bytes(b"x")
    second = start_agent(agent.state, backend="inprocess", timeout_seconds=PATIENCE_SECONDS)
    second.wait_until_ready()
    assert second.classify(video_bytes).json()["version"] == "1"
    assert list((agent.state / "spool").iterdir()) == []
    assert len(list((agent.state / "models").iterdir())) == 1

    taken = run_agent(CMAEV_AGENT_STATE_DIR=str(agent.state))
    assert taken.returncode == 64
    assert "another agent uses" in taken.stderr

    processes = second.processes()
    os.kill(second.child.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)
    assert alive == []

    third = start_agent(agent.state, backend="inprocess", timeout_seconds=PATIENCE_SECONDS)
    third.wait_until_ready()
    assert third.classify(video_bytes).status_code == 200
    assert third.client.delete("/models/shapes").status_code == 204
    assert third.client.get("/models").json() == []
    assert "none yet" in problem(third.classify(video_bytes), 404)["detail"]
    assert list((agent.state / "models").iterdir()) == []
    assert third.workers() == []
