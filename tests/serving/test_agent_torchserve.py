"""The agent with the real TorchServe behind it, from deployment to the last process."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cmaev_serving.archive import build_archive
from cmaev_serving.export import ExportResult
from cmaev_serving.predictor import Predictor


@pytest.fixture(scope="module")
def agent(start_agent: Callable[..., Any], exported: ExportResult) -> Any:
    agent = start_agent(timeout_seconds=60)
    agent.wait_until_ready()
    response = agent.deploy(exported.archive)
    assert response.status_code == 200, (response.text, agent.log.read_text())
    assert response.json()["status"] == "ready"
    return agent


def test_it_answers_as_the_predictor_does(
    agent: Any, exported: ExportResult, video: Path, video_bytes: bytes
) -> None:
    response = agent.classify(video_bytes, top_k=3)
    assert response.status_code == 200, response.text
    answer = response.json()
    expected = Predictor(exported.onnx, threads=1).predict(video, top_k=3)
    assert answer["predictions"] == json.loads(expected.model_dump_json())["predictions"]
    assert (answer["model"], answer["version"]) == ("shapes", "1")
    assert list((agent.state / "spool").iterdir()) == []


def test_broken_videos_are_422_and_harm_nobody(
    agent: Any, broken: dict[str, bytes], video_bytes: bytes
) -> None:
    for kind, body in broken.items():
        response = agent.classify(body)
        assert response.status_code == 422, (kind, response.text)
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["detail"]
        assert problem["fix"]
        assert str(agent.state) not in response.text
    assert agent.classify(video_bytes).status_code == 200
    assert list((agent.state / "spool").iterdir()) == []


def test_torchserve_is_closed_to_those_without_its_token(agent: Any) -> None:
    config = (agent.state / "ts" / "config.properties").read_text()
    addresses = dict(line.split("=", 1) for line in config.splitlines())
    for name, path in (("inference", "/ping"), ("management", "/models")):
        address = addresses[f"{name}_address"]
        assert address.startswith("http://127.0.0.1:")
        assert httpx.get(address + path, timeout=60, trust_env=False).status_code == 400
    (java,) = [process for process in agent.processes() if "java" in process.name()]
    assert all(item.laddr.ip.endswith("127.0.0.1") for item in java.net_connections("tcp"))
    assert not any(name.startswith("CMAEV_AGENT_") for name in java.environ())


def test_a_killed_worker_is_back_soon(agent: Any, video_bytes: bytes) -> None:
    (worker,) = agent.workers()
    worker.kill()
    deadline = time.monotonic() + 90
    codes = []
    while not codes or codes[-1] != 200:
        assert time.monotonic() < deadline, codes
        response = agent.classify(video_bytes)
        codes.append(response.status_code)
        if response.status_code != 200:
            assert response.status_code == 503, response.text
            assert int(response.headers["retry-after"]) > 0
            time.sleep(0.5)
    (successor,) = agent.workers()
    assert successor.pid != worker.pid


def test_a_new_version_replaces_the_old_one_without_a_gap(
    agent: Any, exported: ExportResult, video_bytes: bytes
) -> None:
    codes: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            codes.append(agent.classify(video_bytes).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        response = agent.deploy(exported.archive, version="2")
    finally:
        stop.set()
        thread.join()
    assert response.status_code == 200, response.text
    assert codes
    assert set(codes) == {200}
    assert agent.classify(video_bytes).json()["version"] == "2"
    assert len(agent.workers()) == 1
    assert len(list((agent.state / "models").iterdir())) == 1


def test_a_model_that_does_not_load_leaves_the_old_one(
    agent: Any, video_bytes: bytes, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model at all")
    build_archive(tmp_path / "model.onnx", tmp_path / "bad.mar", name="shapes")
    response = agent.deploy(tmp_path / "bad.mar", version="3")
    assert response.status_code == 422, response.text
    assert "cannot be loaded" in response.json()["detail"]
    assert agent.classify(video_bytes).json()["version"] == "2"
    assert len(agent.workers()) == 1
    assert len(list((agent.state / "models").iterdir())) == 1


def test_a_killed_java_comes_back_with_its_models(agent: Any, video_bytes: bytes) -> None:
    (java,) = [process for process in agent.processes() if "java" in process.name()]
    java.kill()
    java.wait(60)
    deadline = time.monotonic() + 90
    while (response := agent.classify(video_bytes)).status_code != 200:
        assert response.status_code == 503, response.text
        assert time.monotonic() < deadline, response.text
        time.sleep(0.25)


def test_sigterm_leaves_no_process_and_no_key(agent: Any) -> None:
    processes = agent.processes()
    assert len(processes) >= 4
    assert agent.stop() == 0
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []
    assert not (agent.state / "ts" / "run" / "key_file.json").exists()


def test_a_killed_agent_takes_everything_along_and_comes_back(
    agent: Any, start_agent: Callable[..., Any], video_bytes: bytes
) -> None:
    """Runs after the agent was stopped: same state folder, so the model must come back twice."""
    second = start_agent(agent.state, timeout_seconds=60)
    second.wait_until_ready()
    assert second.classify(video_bytes).json()["version"] == "2"
    processes = second.processes()
    os.kill(second.child.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []
