"""The control plane's image, without the image: the wheel and its `api` extra, and nothing else."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECRET = "x" * 40

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment made by the instructions of docker/api.Dockerfile."""
    folder = tmp_path_factory.mktemp("image")
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("core", "trainer", "serving", "api"):
        shutil.copytree(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    text = (ROOT / "docker" / "api.Dockerfile").read_text(encoding="utf-8")
    install = re.search(r"^RUN (pip install .*)$", text, flags=re.MULTILINE)
    assert install is not None
    path = f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}"
    subprocess.run(install[1], shell=True, check=True, cwd=folder, env={**os.environ, "PATH": path})
    return folder / "venv" / "bin" / "python"


def test_it_holds_no_torch(python: Path) -> None:
    code = (
        "from importlib.util import find_spec\n"
        "print([name for name in ('torch', 'numpy', 'av', 'onnx') if find_spec(name)])"
    )
    assert subprocess.check_output([python, "-c", code], text=True).strip() == "[]"


def test_every_command_is_listed(python: Path) -> None:
    """Commands of parts that are not installed are there, and load only when they are run."""
    result = subprocess.run(
        [python.with_name("cmaev"), "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for command in ("train", "export", "submit", "k8s", "presets"):
        assert re.search(rf"^  {command} ", result.stdout, flags=re.MULTILINE)


def test_presets_are_packed(python: Path) -> None:
    listed = subprocess.check_output([python.with_name("cmaev"), "presets", "list"], text=True)
    assert "nano-pretrain" in listed


def test_the_command_serves_and_stops(python: Path, tmp_path: Path) -> None:
    """Without a broker the API migrates, lives, is not ready, and ends on SIGTERM."""
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [python, "-m", "cmaev_api"],
            stdout=log,
            stderr=log,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "CMAEV_PORT": str(port := free_port()),
                "CMAEV_STATE_DIR": str(tmp_path / "state"),
                "CMAEV_RUNS_DIR": str(tmp_path / "runs"),
                "CMAEV_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
                "CMAEV_ADMIN_KEY": SECRET,
                "CMAEV_WORKER_KEY": SECRET[::-1] + "y",
            },
        )
    try:
        deadline = time.monotonic() + 60
        while not answers(f"http://127.0.0.1:{port}/healthz"):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        assert not answers(f"http://127.0.0.1:{port}/readyz")
        assert list((tmp_path / "state").glob("*.sqlite3"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) in {0, -signal.SIGTERM}
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False
