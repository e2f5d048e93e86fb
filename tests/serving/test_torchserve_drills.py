"""Slow drills of the TorchServe backend: tokens that are renewed, workers that hang."""

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmaev_serving.deployment import Deployment
from cmaev_serving.export import ExportResult
from cmaev_serving.torchserve import TorchServeBackend
from cmaev_serving.torchserve_config import TorchServeOptions
from cmaev_serving.worker_settings import WorkerSettings
from cmaev_spec.files import sha256_file

pytestmark = pytest.mark.slow


def options(folder: Path) -> TorchServeOptions:
    return TorchServeOptions(
        folder=folder / "ts",
        store=folder / "models",
        workers_per_model=1,
        timeout_seconds=60,
        startup_seconds=60,
        queue_size=4,
    )


def test_requests_go_on_while_tokens_are_renewed(
    exported: ExportResult, video: Path, tmp_path: Path
) -> None:
    assert exported.archive is not None
    settings = options(tmp_path)
    settings.store.mkdir()
    spool = tmp_path / "spool"
    spool.mkdir()
    shutil.copy(video, spool / "clip")
    deployment = Deployment(name="shapes", version="1", sha256=sha256_file(exported.archive))
    archive = settings.store / f"{deployment.id}.mar"
    shutil.copy(exported.archive, archive)

    async def drill() -> None:
        environment = WorkerSettings(spool=spool).to_environment()
        backend = TorchServeBackend(settings, worker_environment=environment)
        try:
            await backend.start()
            await backend.load(deployment, archive)
            client = backend._client
            assert client is not None
            old = dict(client._keys)
            await client.renew_tokens()
            new = {
                name: entry["key"] for name, entry in json.loads(settings.keys.read_text()).items()
            }
            assert new["inference"] != old["inference"]
            assert new["management"] != old["management"]
            # As if another request had read the file before the renewal.
            client._keys = dict(old)
            assert (await backend.classify(deployment, spool / "clip", 3)).predictions
            client._keys = dict(old)
            assert await backend.state(deployment) == ("ready", "")
        finally:
            await backend.stop()

    asyncio.run(drill())


def test_a_hanging_worker_is_a_504_and_is_replaced(
    start_agent: Callable[..., Any], exported: ExportResult, video_bytes: bytes
) -> None:
    agent = start_agent(timeout_seconds=5)
    agent.wait_until_ready()
    assert agent.deploy(exported.archive).status_code == 200
    (worker,) = agent.workers()
    worker.suspend()
    response = agent.classify(video_bytes)
    assert response.status_code == 504, response.text
    assert "5 seconds" in response.json()["detail"]
    deadline = time.monotonic() + 90
    while agent.classify(video_bytes).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert agent.stop() == 0
