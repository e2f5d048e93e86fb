"""Children end with their parent, even when it is killed with -9."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cmaev_spec.lifeline import ENVIRONMENT, spawn, watch

PATIENCE_SECONDS = 120
SLEEPER = "import time; time.sleep(600)"
WATCHER = "from cmaev_spec import lifeline; lifeline.watch(); "
FAMILY = (
    "import subprocess, sys, time; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "open(sys.argv[1], 'w').write(str(child.pid) + '\\n'); time.sleep(600)"
)
# A parent that spawns one child by its own lifeline, tells its pid and waits.
PARENT = (
    "import sys, time; from cmaev_spec.lifeline import spawn; "
    "print(spawn(sys.argv[1:]).pid, flush=True); time.sleep(600)"
)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_SECONDS  # what is waited for would go on for ten minutes
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


@pytest.fixture
def start_parent() -> Iterator[Callable[..., tuple["subprocess.Popen[bytes]", int]]]:
    """Starts a parent whose child runs the given command; returns both."""
    started: list[subprocess.Popen[bytes]] = []
    pids: list[int] = []

    def start(*command: str) -> tuple["subprocess.Popen[bytes]", int]:
        parent = subprocess.Popen([sys.executable, "-c", PARENT, *command], stdout=subprocess.PIPE)
        started.append(parent)
        assert parent.stdout is not None
        pids.append(int(parent.stdout.readline()))
        return parent, pids[-1]

    yield start
    for parent in started:
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()
    for pid in pids:
        if not gone(pid):
            os.killpg(pid, signal.SIGKILL)


def grandchild(file: Path) -> int:
    assert wait_for(lambda: file.is_file() and file.read_text().endswith("\n"))
    return int(file.read_text())


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "-c", WATCHER + FAMILY),
        (sys.executable, "-m", "cmaev_spec.lifeline", sys.executable, "-c", FAMILY),
    ],
    ids=["watch", "wrapper"],
)
def test_a_family_ends_with_its_killed_parent(
    command: tuple[str, ...], tmp_path: Path, start_parent: Callable[..., tuple[object, int]]
) -> None:
    parent, child = start_parent(*command, str(tmp_path / "pid"))
    assert isinstance(parent, subprocess.Popen)
    other = grandchild(tmp_path / "pid")
    assert not gone(child)
    assert not gone(other)
    parent.kill()
    assert wait_for(lambda: gone(child) and gone(other))


def test_the_last_words_are_heard(
    tmp_path: Path, start_parent: Callable[..., tuple[object, int]]
) -> None:
    code = (
        "import sys, time; from cmaev_spec import lifeline; "
        "lifeline.watch(lambda: open(sys.argv[1] + '.lost', 'w').close()); "
        "open(sys.argv[1], 'w').close(); time.sleep(600)"
    )
    ready = tmp_path / "ready"
    parent, child = start_parent(sys.executable, "-c", code, str(ready))
    assert isinstance(parent, subprocess.Popen)
    assert wait_for(ready.is_file)
    parent.kill()
    assert wait_for(lambda: gone(child))
    assert (tmp_path / "ready.lost").is_file()


def test_close_kills_the_group_and_can_be_repeated(tmp_path: Path) -> None:
    child = spawn([sys.executable, "-c", WATCHER + FAMILY, str(tmp_path / "pid")])
    other = grandchild(tmp_path / "pid")
    child.close()
    child.close()
    assert child.process.returncode == -signal.SIGKILL
    assert wait_for(lambda: gone(other))
    child.signal_group(signal.SIGTERM)


def test_a_child_leads_its_own_session() -> None:
    child = spawn([sys.executable, "-c", SLEEPER])
    try:
        assert os.getpgid(child.pid) == os.getsid(child.pid) == child.pid
        assert os.getpgid(child.pid) != os.getpgrp()
    finally:
        child.close()


INNER = "import os; print(os.environ.get('CMAEV_LIFELINE_FD'), os.listdir('/proc/self/fd'))"


def test_grandchildren_do_not_hold_the_line(tmp_path: Path) -> None:
    """The descriptor is not inherited further, and its variable is taken out."""
    code = (
        WATCHER + "import subprocess, sys; "
        "sys.stdout.write(subprocess.check_output([sys.executable, '-c', sys.argv[1]]).decode())"
    )
    with open(tmp_path / "out", "wb") as out:
        child = spawn([sys.executable, "-c", code, INNER], stdout=out)
        try:
            assert child.process.wait(timeout=PATIENCE_SECONDS) == 0
        finally:
            child.close()
    # Standard streams, and the one that lists.
    assert (tmp_path / "out").read_text() == "None ['0', '1', '2', '3']\n"


def test_without_a_lifeline_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert watch() is False


@pytest.mark.parametrize(("code", "expected"), [("exit(0)", 0), ("exit(75)", 75)])
def test_the_wrapper_passes_the_exit_code_on(code: str, expected: int) -> None:
    command = [
        sys.executable,
        "-m",
        "cmaev_spec.lifeline",
        sys.executable,
        "-c",
        f"import sys; sys.{code}",
    ]
    assert subprocess.run(command, check=False).returncode == expected


def test_the_wrapper_passes_signals_on() -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); "
        "print('ready', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-m", "cmaev_spec.lifeline", sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as wrapper:
        assert wrapper.stdout is not None
        assert wrapper.stdout.readline() == b"ready\n"
        wrapper.terminate()
        assert wrapper.wait(timeout=PATIENCE_SECONDS) == 75
