"""How runs end, with a quick runner in place of training (tests/fakes/fake_runner.py)."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cmaev import BadInput, Run, RunFailed, RunStopped, pretrain
from cmaev.runlock import hold_run
from cmaev_spec.job import PretrainJob
from cmaev_spec.rundir import RunDir

FAKES = Path(__file__).parents[2] / "fakes"
PATHS = os.pathsep.join(filter(None, [str(FAKES), os.environ.get("PYTHONPATH")]))

Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a run that does what its name says."""
    monkeypatch.setenv("PYTHONPATH", PATHS)
    (tmp_path / "a.mp4").touch()

    def call(name: str, *, out: str = "run", **arguments: Any) -> Run:
        return pretrain([tmp_path / "a.mp4"], out=tmp_path / out, name=name, **arguments)

    return call


def test_what_it_prints_is_shown_or_logged(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start("steps=1")
    assert capsys.readouterr().out == "fake runner, rank 0\n"
    assert not (run.path / "log.txt").exists()
    run.resume(progress=False)
    assert capsys.readouterr().out == ""
    assert (run.path / "log.txt").read_text() == "fake runner, rank 0\n"


def test_each_end_has_an_exception(start: Start, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^videos: no such file$"):
        start("raise=bad")
    with pytest.raises(RunFailed, match="RuntimeError: the disk is full; what it printed is in"):
        start("raise=error", out="error", progress=False)
    assert "Traceback" in (tmp_path / "error" / "log.txt").read_text()
    with pytest.raises(RunStopped, match=r"resume\(\) goes on"):
        start("exit=75", out="stopped")
    with pytest.raises(RunFailed, match="it ended with code -9"):
        start("rank0_kill=9", out="killed")


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_input_is_told_once(
    processes: int, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the exception, and besides in the log where what it prints goes there."""
    many = {"processes_per_node": processes}
    with pytest.raises(BadInput, match=r"^videos: no such file$"):
        start("raise=bad", **many)
    printed = capsys.readouterr()
    assert "fake runner, rank 0" in printed.out
    assert "no such file" not in printed.out + printed.err
    with pytest.raises(BadInput, match=r"^videos: no such file$"):
        start("raise=bad", out="logged", progress=False, **many)
    assert "error: data.index: no such file" in (tmp_path / "logged" / "log.txt").read_text()


def test_the_same_call_goes_on(start: Start, tmp_path: Path) -> None:
    start("steps=2")
    assert (start("steps=2").path / "steps-0.txt").read_text() == "1\n2\n"
    (tmp_path / "run" / "summary.json").write_text("{}")
    with pytest.raises(BadInput) as caught:
        start("steps=2", seed=1)
    assert str(caught.value).startswith(f"out: {tmp_path}/run belongs to another run: seed is 0")


def test_changes_are_taken_where_they_are_allowed(start: Start) -> None:
    run = start("steps=2")
    (run.path / "summary.json").write_text("{}")  # which the quick runner does not
    with pytest.raises(BadInput) as caught:
        start("steps=2", base_lr=0.5)
    assert "optim.base_lr is 0.008 there and 0.5 here" in str(caught.value)
    assert str(caught.value).endswith("go on with the changed job by allow_changes")
    changed = start("steps=2", base_lr=0.5, allow_changes=True).job
    assert isinstance(changed, PretrainJob)
    assert changed.optim.base_lr == 0.5
    assert not run.finished, "the summary was of the old job"
    (run.path / "summary.json").write_text("{}")
    refused = changed.optim.base_lr / 2
    with pytest.raises(BadInput, match="no such file"):
        start("raise=bad", base_lr=refused, allow_changes=True)
    assert run.job == changed


@pytest.fixture
def script(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A script with a run that goes on until it is stopped."""
    (tmp_path / "a.mp4").touch()
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from cmaev import pretrain\n"
        "pretrain(['a.mp4'], out='run', name='steps=100000')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PATHS},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (tmp_path / "run" / "steps-0.txt").is_file() and process.poll() is None:
            time.sleep(0.01)
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_ends_the_script(
    script: "subprocess.Popen[str]", tmp_path: Path, number: int
) -> None:
    run = RunDir(tmp_path / "run")
    script.send_signal(number)
    _, told = script.communicate()
    assert script.returncode == -number, told
    assert ("stopping after a checkpoint" in told) == (number == signal.SIGINT)
    assert '"stopped"' in run.events.read_text().splitlines()[-1]
    with hold_run(run, patience=0.0):
        steps = len((run.path / "steps-0.txt").read_text().splitlines())
        assert json.loads((run.path / "state-0.json").read_text()) == steps, "no step is lost"


def test_a_run_ends_with_a_script_that_is_killed(
    script: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    script.kill()
    script.wait()
    with hold_run(RunDir(tmp_path / "run"), patience=60.0):
        pass  # Every process of the run is gone, or this would raise.


def test_signal_handlers_are_what_they_were(start: Start) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    start("steps=1")
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_run_may_start_in_any_thread(start: Start) -> None:
    runs: list[Run] = []
    thread = threading.Thread(target=lambda: runs.append(start("steps=1")))
    thread.start()
    thread.join()
    assert (runs[0].path / "steps-0.txt").read_text() == "1\n"
