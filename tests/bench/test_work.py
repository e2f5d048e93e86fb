"""Tasks that wait for each other, and processes that end with the one that started them."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench.ceiling.work import work_through

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Task:
    name: str


@dataclass(frozen=True)
class Notes:
    """Tasks that leave their process in a file; `bad` ones fail, `long` ones take ten minutes."""

    folder: Path

    def result(self, task: Task) -> Path:
        return self.folder / task.name

    def do(self, task: Task) -> None:
        if task.name.startswith("bad"):
            raise ValueError("as it was asked to")
        self.result(task).write_text(str(os.getpid()))
        if task.name.startswith("long"):
            time.sleep(600)

    def begin(self) -> None:
        pass


A, B, BAD, AFTER = (Task(name) for name in ("a", "b", "bad", "after"))


def work(notes: Notes, plan: dict[Task, list[Task]], processes: int = 1) -> int:
    return work_through(
        plan, notes.do, notes.result, begin=notes.begin, processes=processes, minutes=10
    )


def test_what_is_done_stays_and_what_needs_a_failure_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = Notes(tmp_path)
    (tmp_path / "a").write_text("done before")
    assert work(notes, {A: [], B: [A], BAD: [], AFTER: [BAD]}) == 1
    assert (tmp_path / "a").read_text() == "done before"
    assert (tmp_path / "b").exists()
    assert not (tmp_path / "after").exists()
    assert "as it was asked to" in capsys.readouterr().out


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    parent = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path)], env={**os.environ, "PYTHONPATH": paths}
    )
    files = [tmp_path / "long-0", tmp_path / "long-1"]
    _eventually(lambda: all(file.exists() and file.read_text() for file in files), parent)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _eventually(lambda: not any(_runs(int(file.read_text())) for file in files), None)


def _eventually(condition, parent) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 100  # less than the tasks would take
    while not condition():
        assert parent is None or parent.poll() is None, "the parent ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    work(Notes(Path(sys.argv[1])), {Task("long-0"): [], Task("long-1"): []}, processes=2)
