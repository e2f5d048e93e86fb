"""A real `cmaev up` on free ports, in a state folder of its own."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

FAKES = Path(__file__).parents[2] / "fakes"
CLI = "from cmaev.cli import main; main()"


class LocalStack:
    """`cmaev up` as a user starts it; jobs run the fake runner."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.marker = secrets.token_hex(8)
        self.index = folder / "index.csv"
        self.index.write_text("clip.mp4,0\n")
        self.process: subprocess.Popen[str] | None = None
        self.output = ""

    def start(self, *options: str, ready: bool = True) -> "subprocess.Popen[str]":
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLI, "up", "--state", str(self.state), "--port", "0", *options],
            env={
                **{name: value for name, value in os.environ.items() if "CMAEV_" not in name},
                "PYTHONPATH": str(FAKES),
                "CMAEV_TEST_MARKER": self.marker,
                "CMAEV_LEASE_SECONDS": "10",
                "CMAEV_HEARTBEAT_SECONDS": "0.4",
                "CMAEV_SWEEP_SECONDS": "0.3",
            },
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if ready:
            assert self.process.stdout is not None
            self.output = ""
            for line in self.process.stdout:
                self.output += line
                if line.startswith("Ctrl-C"):
                    return self.process
            raise AssertionError(f"cmaev up ended:\n{self.output}")
        return self.process

    @property
    def stack(self) -> dict[str, Any]:
        return json.loads((self.state / "stack.json").read_text())

    def pid(self, service: str) -> int:
        return self.stack["services"][service]["pid"]

    def call(self, method: str, path: str, **options: Any) -> Any:
        key = (self.state / "api-key").read_text()
        answer = httpx.request(
            method,
            self.stack["api"] + path,
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
            **options,
        )
        assert answer.is_success, answer.text
        return answer.json()

    def kill_and_wait_for_restart(self, service: str) -> None:
        before = self.pid(service)
        os.kill(before, signal.SIGKILL)
        self.eventually(lambda: self.pid(service) not in {before, None}, what=f"{service} again")

    def answers(self, path: str) -> bool:
        try:
            return httpx.get(self.stack["api"] + path, timeout=30).is_success
        except httpx.TransportError:
            return False

    def submit(self, name: str) -> str:
        spec = {
            "kind": "pretrain",
            "name": name,
            "data": {"index": str(self.index)},
            "optim": {"base_lr": 0.1, "batch_size": 4, "epochs": 1},
        }
        return self.call("POST", "/v1/jobs", json=spec)["id"]

    def job(self, job_id: str) -> dict[str, Any]:
        return self.call("GET", f"/v1/jobs/{job_id}")

    def steps(self, job_id: str) -> list[int]:
        path = self.state / "runs" / job_id / "steps-0.txt"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def wait_for_state(self, job_id: str, state: str, *, seconds: float = 60) -> dict[str, Any]:
        self.eventually(lambda: self.job(job_id)["state"] == state, seconds=seconds, what=state)
        return self.job(job_id)

    def eventually(
        self, condition: Callable[[], object], *, seconds: float = 60, what: str = ""
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            time.sleep(0.1)

    def alive(self) -> list[psutil.Process]:
        """Every live process of this stack, by a mark in its environment.

        Valkey overwrites its environment by its title, so it is told by its folder.
        """
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and (
                    process.environ().get("CMAEV_TEST_MARKER") == self.marker
                    or process.cwd().startswith(str(self.folder))
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.output, _ = self.process.communicate(timeout=90)
        return self.process.returncode

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate(timeout=60)
        self.eventually(lambda: not self.alive(), what="nothing is left running")


@pytest.fixture
def local_stack(tmp_path: Path) -> Iterator[LocalStack]:
    stack = LocalStack(tmp_path)
    yield stack
    stack.close()
