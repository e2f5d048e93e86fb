"""A real finetuned run, its real export, and small real videos, good and broken."""

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import httpx
import numpy as np
import psutil
import pytest
import torch

import cmaev_serving  # noqa: F401  (switches the telemetry of onnxruntime off first)
from cmaev.checkpoints.runs import build_classifier
from cmaev.engine.checkpoint import save_checkpoint
from cmaev_serving.export import ExportResult, export_run
from cmaev_spec import lifeline
from cmaev_spec.files import write_atomic
from cmaev_spec.job import FinetuneJob, parse_job
from cmaev_spec.rundir import RunDir
from cmaev_spec.wire import content_hash

LABELS = tuple(f"label {index}" for index in range(8))
STEP = 30
ENCODER = "cmaev_vit_nano_patch8_32"
TOKEN = "a-token-for-the-tests"


def finetune_job(encoder: str = ENCODER) -> FinetuneJob:
    job = parse_job(
        {
            "kind": "finetune",
            "model": {"name": encoder, "init_scale": 1.0},
            "data": {
                "index": "train.csv",
                "val_index": "val.csv",
                "clip": {"frames": 8, "stride": 2, "size": 32},
            },
            "optim": {"base_lr": 1e-3, "batch_size": 8, "epochs": 1},
        }
    )
    assert isinstance(job, FinetuneJob)
    return job


def write_run(folder: Path, *, seed: int = 0, encoder: str = ENCODER) -> RunDir:
    """A run directory as finetuning leaves it; its head is scaled up so that labels differ."""
    job = finetune_job(encoder)
    torch.manual_seed(seed)
    model = build_classifier(job, num_classes=len(LABELS))
    with torch.no_grad():
        model.head.weight.normal_(std=0.5)
    run = RunDir(folder)
    run.claim(job)
    write_atomic(run.labels, json.dumps(LABELS))
    save_checkpoint(
        run, step=STEP, epoch=1.0, spec_hash=content_hash(job), model=model.state_dict(), state={}
    )
    return run


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return write_run(tmp_path_factory.mktemp("runs") / "finetuned")


@pytest.fixture(scope="session")
def finetuned_hybrid(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("runs") / "hybrid"
    return write_run(folder, encoder="cmaev_convvit_nano_patch8_32")


@pytest.fixture(scope="session")
def exported(finetuned: RunDir, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    out = tmp_path_factory.mktemp("export")
    return export_run(finetuned, out, name="shapes", num_clips=2)


def write_mp4(
    path: Path, frames: int, *, width: int = 64, height: int = 48, faststart: bool = False
) -> bytes:
    """H.264 of a moving gradient with noise, 25 frames a second; returns the file's bytes."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:height, 0:width]
    options = {"movflags": "+faststart"} if faststart else {}
    with av.open(path, "w", format="mp4", options=options) as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, 25)
        for number in range(frames):
            grey = (rows * 2 + columns * 3 + number * 5 + rng.integers(0, 20, rows.shape)) % 256
            frame = av.VideoFrame.from_ndarray(
                np.repeat(grey[..., None], 3, axis=2).astype(np.uint8), format="rgb24"
            )
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path.read_bytes()


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "moving.mp4"
    write_mp4(path, 40)
    return path


@pytest.fixture(scope="session")
def video_bytes(video: Path) -> bytes:
    return video.read_bytes()


@pytest.fixture(scope="session")
def audio_only() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        frame.pts = 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


@pytest.fixture(scope="session")
def broken(
    video_bytes: bytes, audio_only: bytes, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """Bodies that are no usable video, by what is wrong with them."""
    whole = write_mp4(tmp_path_factory.mktemp("broken") / "front.mp4", 60, faststart=True)
    return {
        "text": b"this is not a video\n" * 100,
        "truncated": video_bytes[: len(video_bytes) // 2],
        "cut after its header": whole[:-6000],
        "audio only": audio_only,
        "random": np.random.default_rng(0).bytes(5000),
    }


class Agent:
    """A running serving agent and a client that has its token."""

    def __init__(self, state: Path, **settings: object) -> None:
        self.state = state
        state.mkdir(parents=True, exist_ok=True)
        port_file = state.parent / f"{state.name}.port"
        port_file.unlink(missing_ok=True)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("CMAEV_")
        } | {
            "CMAEV_AGENT_STATE_DIR": str(state),
            "CMAEV_AGENT_PORT": "0",
            "CMAEV_AGENT_PORT_FILE": str(port_file),
            "CMAEV_AGENT_TOKEN": TOKEN,
            **{f"CMAEV_AGENT_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.log = state.parent / f"{state.name}.log"
        with open(self.log, "ab") as log:
            self.child = lifeline.spawn(
                [sys.executable, "-m", "cmaev_serving.agent"],
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.wait_for(port_file.is_file, what="the port file")
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port_file.read_text().strip()}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=180,
            trust_env=False,
        )

    def wait_until_ready(self) -> None:
        self.wait_for(lambda: self.client.get("/readyz").status_code == 200, what="ready")

    def wait_for(self, condition: Callable[[], object], *, what: str, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                log = self.log.read_text()[-4000:]
                pytest.fail(f"{what} did not come within {seconds} s:\n{log}")
            time.sleep(0.05)

    def listens(self) -> bool:
        with socket.socket() as client:
            url = self.client.base_url
            return client.connect_ex((url.host, url.port)) == 0

    def deploy(self, archive: Path, *, name: str = "shapes", version: str = "1") -> httpx.Response:
        data = archive.read_bytes()
        return self.client.put(
            f"/models/{name}/versions/{version}",
            content=data,
            headers={"X-Content-SHA256": hashlib.sha256(data).hexdigest()},
        )

    def classify(self, body: bytes, *, name: str = "shapes", top_k: int = 5) -> httpx.Response:
        return self.client.post(f"/models/{name}:classify", content=body, params={"top_k": top_k})

    def processes(self) -> list[psutil.Process]:
        """The agent and everything it started."""
        agent = psutil.Process(self.child.pid)
        return [agent, *agent.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """The processes that hold a model."""
        names = ("model_service_worker.py", "cmaev_serving.worker")
        return [
            process
            for process in self.processes()
            if any(name in part for part in _command(process) for name in names)
        ]

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.child.process.terminate()
        code = self.child.process.wait(60)
        self.close()
        return code

    def close(self) -> None:
        self.client.close()
        self.child.close()


def _command(process: psutil.Process) -> list[str]:
    """Its command line; empty for one that has just ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def start_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Agent]]:
    """Starts agents; those that still run at the end are killed."""
    agents: list[Agent] = []

    def start(state: Path | None = None, **settings: object) -> Agent:
        folder = state if state is not None else tmp_path_factory.mktemp("a") / "state"
        agents.append(Agent(folder, **settings))
        return agents[-1]

    yield start
    for agent in agents:
        agent.close()


def _run_agent(**environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CMAEV_")}
    return subprocess.run(
        [sys.executable, "-m", "cmaev_serving.agent"],
        env=clean | {"CMAEV_AGENT_TOKEN": TOKEN} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def run_agent() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs an agent that is expected to end by itself."""
    return _run_agent
