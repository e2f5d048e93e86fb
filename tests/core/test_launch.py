"""The launcher keeps the exit-code contract, for one process and for several."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cmaev import launch, ranks
from cmaev.runlock import RunBusyError, hold_run
from cmaev_spec.exits import BadInput
from cmaev_spec.job import parse_job
from cmaev_spec.resources import ResourceSpec
from cmaev_spec.rundir import RunDir

FAKES = Path(__file__).parents[1] / "fakes"
PATHS = os.pathsep.join(filter(None, [str(FAKES), os.environ.get("PYTHONPATH")]))


def make_run(path: Path, name: str, processes: int = 1) -> RunDir:
    run = RunDir(path / "run")
    run.claim(
        parse_job(
            {
                "kind": "pretrain",
                "name": name,
                "data": {"index": "none.csv"},
                "optim": {"base_lr": 0.1, "batch_size": 4, "epochs": 1},
                "resources": {"processes_per_node": processes},
            }
        )
    )
    return run


class Launches:
    """Starts launchers as a supervisor does, each in a group of its own."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def __call__(self, run: RunDir, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "cmaev.launch", "--run-dir", str(run.path)],
            env={**os.environ, "PYTHONPATH": PATHS, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process


@pytest.fixture
def start() -> Iterator[Launches]:
    launches = Launches()
    yield launches
    for process in launches.started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def outcomes(run: RunDir) -> list[dict[str, object]]:
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    return [event for event in events if event["type"] == "outcome"]


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"not within 60 s: {what}"
        time.sleep(0.05)


def wait_for_steps(run: RunDir, *, ranks: int = 1) -> None:
    """Waits until every rank runs and has made a step."""
    files = [run.path / f"steps-{rank}.txt" for rank in range(ranks)]
    eventually(lambda: all(file.exists() for file in files), "every rank has made a step")


def members(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_success_is_zero_and_the_runner_tells(tmp_path: Path, start: Launches) -> None:
    run = make_run(tmp_path, "steps=2")
    process = start(run)
    assert process.communicate(timeout=60)[0] == "fake runner, rank 0\n"
    assert process.returncode == 0
    assert [event["status"] for event in outcomes(run)] == ["succeeded"]


def test_bad_input_is_64_with_one_line_and_an_outcome(tmp_path: Path, start: Launches) -> None:
    run = make_run(tmp_path, "raise=bad")
    process = start(run)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 64
    assert stderr == "error: data.index: no such file\n"
    (event,) = outcomes(run)
    assert (event["status"], event["exit_code"]) == ("failed", 64)
    assert event["error"] == "data.index: no such file"


def test_unexpected_error_is_1_with_traceback(tmp_path: Path, start: Launches) -> None:
    run = make_run(tmp_path, "raise=error")
    process = start(run)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" in stderr
    assert outcomes(run)[0]["error"] == "RuntimeError: the disk is full"


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("diverged", "weights are not finite at step 3"),
        ("full", "predictions.csv: No space left on device; make room, then run it again"),
    ],
)
def test_an_end_that_its_message_explains_is_1_without_traceback(
    tmp_path: Path, start: Launches, end: str, message: str
) -> None:
    run = make_run(tmp_path, f"raise={end}")
    process = start(run)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr == f"error: {message}\n"
    assert outcomes(run)[0]["exit_code"] == 1


def test_a_folder_without_a_spec_is_bad_input(tmp_path: Path, start: Launches) -> None:
    process = start(RunDir(tmp_path))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 64
    assert "spec.json" in stderr
    assert list(tmp_path.iterdir()) == []


def test_stop_then_resume(tmp_path: Path, start: Launches) -> None:
    run = make_run(tmp_path, "steps=200 tick=0.1 resumed_tick=0")
    process = start(run)
    wait_for_steps(run)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    process = start(run)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (run.path / "steps-0.txt").read_text().split() == [str(n) for n in range(1, 201)]


def test_launcher_does_not_import_torch() -> None:
    code = "import sys, cmaev.launch; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_two_ranks_succeed_and_stop_together(tmp_path: Path, start: Launches) -> None:
    run = make_run(tmp_path, "steps=200 tick=0.1 resumed_tick=0", processes=2)
    process = start(run)
    wait_for_steps(run, ranks=2)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert sorted(stdout.splitlines()) == ["fake runner, rank 0", "fake runner, rank 1"]
    process = start(run)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_ranks_find_each_other_and_end_whatever_their_group_still_does(
    tmp_path: Path, start: Launches
) -> None:
    run = make_run(tmp_path, "gloo", processes=2)
    process = start(run, CMAEV_TEST_RUNNER="gloo_runner", OMP_NUM_THREADS="1")
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    assert stdout.splitlines() == ["all but done"] * 2
    assert (run.path / "total.txt").read_text() == "3 of 2"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("steps=4000 tick=0.05 rank1_kill=9", 137),
        ("raise=bad", 64),
    ],
)
def test_the_code_of_the_rank_at_fault_is_kept(
    tmp_path: Path, name: str, code: int, start: Launches
) -> None:
    process = start(make_run(tmp_path, name, processes=2))
    process.communicate(timeout=60)  # the other rank would go on for minutes
    assert process.returncode == code


def test_a_rank_that_waits_for_one_that_was_stopped_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that wants to join, where the other was stopped while it was still starting."""
    monkeypatch.setattr(ranks, "STOP_SETTLE_SECONDS", 0.0)
    code = (
        "import os, signal, sys, time; signal.pthread_sigmask(signal.SIG_SETMASK, [])\n"
        "os.environ['RANK'] == '1' and sys.exit(75); time.sleep(600); 1 / 0"
    )
    resources = ResourceSpec(processes_per_node=2)
    assert ranks.run_ranks([sys.executable, "-c", code], resources=resources) == 75


def test_bad_input_explains_the_other_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, "rank0_exit=1 rank1_exit=64", processes=2)
    monkeypatch.setenv("PYTHONPATH", PATHS)
    monkeypatch.setattr(ranks, "SETTLE_SECONDS", 120.0)  # for a rank that others keep from running
    monkeypatch.setattr(ranks, "PEER_GRACE_SECONDS", 240.0)
    assert launch.main(["--run-dir", str(run.path)]) == 64


def test_killing_the_group_reaches_every_rank(tmp_path: Path, start: Launches) -> None:
    run = make_run(tmp_path, "steps=4000 tick=0.05 grandchild=1", processes=2)
    process = start(run)
    wait_for_steps(run, ranks=2)
    assert len(members(process.pid)) == 5  # the launcher, and each rank with its child
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    eventually(lambda: members(process.pid) == [], "nothing of the group is left")


def test_ranks_end_with_a_launcher_that_is_killed_alone(tmp_path: Path, start: Launches) -> None:
    run = make_run(tmp_path, "steps=4000 tick=0.05", processes=2)
    process = start(run)
    wait_for_steps(run, ranks=2)
    process.kill()
    process.communicate(timeout=60)
    eventually(lambda: members(process.pid) == [], "no rank is left")


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], 0),
        ([75, 0], 75),
        ([75, 1], 1),
        ([1, 64], 64),
        ([64, 1, -9], 137),
        ([None, 1], 1),
    ],
)
def test_combine(codes: list[int | None], expected: int) -> None:
    assert ranks.combine(codes) == expected


def test_place_of_a_node() -> None:
    resources = ResourceSpec(nodes=2, processes_per_node=4)
    environment = {
        "CMAEV_NODE_RANK": "1",
        "CMAEV_MASTER_ADDR": "pretrain-0.pretrain",
        "CMAEV_MASTER_PORT": "29500",
    }
    place = ranks.rendezvous(resources, environment)
    assert place == {
        "MASTER_ADDR": "pretrain-0.pretrain",
        "MASTER_PORT": "29500",
        "GROUP_RANK": "1",
    }
    with pytest.raises(BadInput, match="CMAEV_MASTER_ADDR"):
        ranks.rendezvous(resources, {"CMAEV_NODE_RANK": "1"})
    with pytest.raises(BadInput, match="CMAEV_NODE_RANK: must be 0 to 1"):
        ranks.rendezvous(resources, {**environment, "CMAEV_NODE_RANK": "2"})


def test_one_writer_per_run(tmp_path: Path, start: Launches) -> None:
    run = make_run(tmp_path, "steps=4000 tick=0.05")
    process = start(run)
    wait_for_steps(run)
    with pytest.raises(RunBusyError, match=str(run.path)), hold_run(run, patience=0.3):
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    with hold_run(run, patience=60.0):
        pass
