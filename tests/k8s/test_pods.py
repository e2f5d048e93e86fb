"""The training pods' command and environment, run as processes instead of pods."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_OK, EXIT_STOPPED
from cmaev_spec.job import JobSpec, parse_job
from cmaev_spec.manifest import Placement, render
from cmaev_spec.rundir import RunDir

FAKES = Path(__file__).parents[1] / "fakes"


class Pods:
    """Starts the pods of a rendered job, with the volumes below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def start(
        self, objects: list[dict[str, Any]], *, index: int, fake: bool = True
    ) -> "subprocess.Popen[str]":
        config, _, _, job = objects
        spec = self.folder / "etc" / "cmaev" / "spec.json"
        spec.parent.mkdir(parents=True, exist_ok=True)
        spec.write_text(config["data"]["spec.json"])
        (container,) = job["spec"]["template"]["spec"]["containers"]
        values = {"PATH": os.environ["PATH"], "PYTHONPATH": str(FAKES) if fake else ""}
        for variable in container["env"]:
            # The only value that Kubernetes fills in is the completion index.
            values[variable["name"]] = variable.get("value", str(index))
        values["CMAEV_MASTER_ADDR"] = "127.0.0.1"
        for name in ("HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
            values[name] = str(self.folder) + values[name]
        paths = [str(self.folder) + item if item[0] == "/" else item for item in container["args"]]
        assert container["command"][0] == "python"
        self.processes.append(
            subprocess.Popen(
                [sys.executable, *container["command"][1:], *paths],
                env=values,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return self.processes[-1]

    def run_dir(self, name: str) -> RunDir:
        return RunDir(self.folder / "runs" / name)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    result = Pods(tmp_path)
    yield result
    for process in result.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def named(job: JobSpec, name: str) -> JobSpec:
    """The same job with the words that the fake runner acts on."""
    return parse_job({**job.model_dump(mode="json"), "name": name})


def test_two_pods_at_once_claim_one_run(
    make_job: Callable[..., JobSpec], placement: Placement, pods: Pods
) -> None:
    job = named(make_job(nodes=2, processes_per_node=2), "steps=4")
    objects = render(job, placement)
    codes = [end(process) for process in [pods.start(objects, index=index) for index in (0, 1)]]
    assert [code for code, _ in codes] == [EXIT_OK, EXIT_OK], codes
    run = pods.run_dir(placement.name)
    assert run.read_job() == job
    for rank in range(4):
        assert (run.path / f"steps-{rank}.txt").read_text() == "1\n2\n3\n4\n"


def test_a_stopped_pod_ends_with_the_code_that_is_not_counted(
    make_job: Callable[..., JobSpec], placement: Placement, pods: Pods
) -> None:
    objects = render(named(make_job(), "steps=1000 tick=0.05"), placement)
    process = pods.start(objects, index=0)
    steps = pods.run_dir(placement.name).path / "steps-0.txt"
    deadline = time.monotonic() + 120
    while not steps.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert end(process)[0] == EXIT_STOPPED


def test_a_new_pod_goes_on_where_the_killed_one_was(
    make_job: Callable[..., JobSpec], placement: Placement, pods: Pods
) -> None:
    objects = render(named(make_job(), "steps=6 rank0_kill=9"), placement)
    codes = [end(pods.start(objects, index=0))[0] for _ in range(6)]
    assert codes == [-signal.SIGKILL] * 6
    assert end(pods.start(objects, index=0))[0] == EXIT_OK
    steps = pods.run_dir(placement.name).path / "steps-0.txt"
    assert steps.read_text().split() == list("123456")


def test_a_run_of_another_job_is_left_alone(
    make_job: Callable[..., JobSpec], placement: Placement, pods: Pods
) -> None:
    assert end(pods.start(render(named(make_job(), "steps=2"), placement), index=0))[0] == EXIT_OK
    run = pods.run_dir(placement.name)
    before = run.events.read_bytes()
    other = named(make_job(), "steps=3").model_copy(update={"seed": 1})
    code, output = end(pods.start(render(other, placement), index=0))
    assert code == EXIT_BAD_INPUT
    assert "run_dir: " in output
    assert "belongs to another run: seed is 0 there and 1 here" in output
    assert run.events.read_bytes() == before


def test_bad_data_fails_the_job_and_says_why(
    make_job: Callable[..., JobSpec], placement: Placement, pods: Pods
) -> None:
    objects = render(named(make_job(), "raise=bad"), placement)
    code, output = end(pods.start(objects, index=0))
    assert code == EXIT_BAD_INPUT
    assert "data.index: no such file" in output
    last = json.loads(pods.run_dir(placement.name).events.read_text().splitlines()[-1])
    assert (last["type"], last["exit_code"]) == ("outcome", EXIT_BAD_INPUT)


def test_a_pod_without_its_rank_is_told_so(
    make_job: Callable[..., JobSpec], placement: Placement, pods: Pods
) -> None:
    code, output = end(pods.start(render(make_job(nodes=2), placement), index=5))
    assert code == EXIT_BAD_INPUT
    assert "CMAEV_NODE_RANK: must be 0 to 1, not '5'" in output


@pytest.mark.slow
def test_two_pods_train_one_model(
    make_job: Callable[..., JobSpec], placement: Placement, pods: Pods, tmp_path: Path
) -> None:
    """The real runner on generated videos; the static rendezvous is the manifest's own."""
    videos = tmp_path / "videos"
    command = ["data", "synth", str(videos), "--classes", "2", "--per-class", "8", "--seed", "0"]
    subprocess.run([Path(sys.executable).with_name("cmaev"), *command], check=True)
    plain = make_job(nodes=2, device="cpu", threads=1).model_dump(mode="json")
    plain["data"] = {**plain["data"], "index": str(videos / "train.csv")}
    plain["optim"] = {**plain["optim"], "batch_size": 4, "epochs": 2}
    job = parse_job(plain)
    objects = render(job, placement)
    started = [pods.start(objects, index=index, fake=False) for index in (0, 1)]
    codes = [end(process) for process in started]
    assert [code for code, _ in codes] == [EXIT_OK, EXIT_OK], codes
    run = pods.run_dir(placement.name)
    last = json.loads(run.events.read_text().splitlines()[-1])
    assert (last["type"], last["status"]) == ("outcome", "succeeded")
    assert run.complete_checkpoints()
