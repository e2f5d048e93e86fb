"""Starting, watching and stopping services, with small real processes in their place."""

import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

DRIVER = """
import sys
import time
from pathlib import Path
from cmaev_api.local import child
from cmaev_api.local.child import ServiceFailedError
from cmaev_api.local.services import Service
from cmaev_api.local.stack import Stack, StopRequestedError
from cmaev_api.local.state import StateDir

state = StateDir(Path(sys.argv[1]))
child.FIRST_PAUSE_SECONDS = 0.05
marks = state.path / "marks"
marks.mkdir(exist_ok=True)

def say(line):
    print(line, flush=True)

def service(name, body, *, never_ready=False, **limits):
    log = state.log_of(name)
    def check():
        while never_ready and not (log.exists() and log.stat().st_size):
            time.sleep(0.02)
        return None if not never_ready and (marks / name).exists() else "no mark"
    code = (
        "import os, pathlib, signal, sys, time; from cmaev_spec import lifeline; lifeline.watch();"
        f"mark = pathlib.Path({str(marks / name)!r}); mark.write_text(str(os.getpid()));" + body
    )
    return Service(
        name=name, command=(sys.executable, "-c", code), log=log, check=check, **limits,
    )

SLEEP = "time.sleep(600)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); mark.write_text('deaf'); time.sleep(600)"
stages = eval(sys.argv[2])
try:
    Stack(state, stages=stages, url="http://127.0.0.1:1", say=say).run(on_ready=lambda: say("UP"))
    say("stopped")
except ServiceFailedError as error:
    say(f"failed: {error}")
    sys.exit(1)
except StopRequestedError as error:
    say(str(error))
    sys.exit(1)
finally:
    state.close()
"""


class Driven:
    """A stack in a process of its own."""

    def __init__(self, folder: Path, stages: str) -> None:
        self.state = folder / "state"
        self.marker = secrets.token_hex(8)
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(DRIVER), str(self.state), stages],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "CMAEV_TEST_MARKER": self.marker},
            start_new_session=True,
        )

    def wait_for(self, text: str) -> list[str]:
        """Reads lines up to the one with `text`."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line.rstrip())
            if text in line:
                return lines
        raise AssertionError(f"{text!r} did not come: {lines}")

    def finish(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output

    def pids(self) -> dict[str, int]:
        services = json.loads((self.state / "stack.json").read_text())["services"]
        return {name: entry["pid"] for name, entry in services.items()}

    def alive(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.status() != psutil.STATUS_ZOMBIE
                    and process.environ().get("CMAEV_TEST_MARKER") == self.marker
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def assert_gone(self) -> None:
        deadline = time.monotonic() + 60
        while remaining := self.alive():
            assert time.monotonic() < deadline, remaining
            time.sleep(0.05)


@pytest.fixture
def drive(tmp_path: Path):
    started: list[Driven] = []

    def start(stages: str) -> Driven:
        started.append(Driven(tmp_path, stages))
        return started[-1]

    yield start
    for item in started:
        item.process.kill()
        item.process.communicate(timeout=60)
        item.assert_gone()


def test_starts_in_order_and_stops_in_reverse(drive, tmp_path: Path) -> None:
    note = "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit()));"
    stack = drive(
        f'[[service("a", "{note}" + SLEEP)], [service("b", "{note}" + SLEEP), service("c", SLEEP)]]'
    )
    lines = stack.wait_for("UP")
    assert [line.split()[0] for line in lines[:-1]] == ["a", "b", "c"]
    pids = stack.pids()
    stack.process.terminate()
    code, output = stack.finish()
    assert (code, output) == (0, "stopped\n")
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert (stack.state / "logs/a.log").read_text() == "bye\n"
    assert not (stack.state / "stack.json").exists()


def test_a_service_that_dies_is_started_again(drive) -> None:
    stack = drive('[[service("a", SLEEP)]]')
    stack.wait_for("UP")
    before = stack.pids()["a"]
    os.kill(before, signal.SIGKILL)
    lines = stack.wait_for("started again")
    assert lines[0] == "a ended (killed by SIGKILL); starting it again in 0.05 s"
    assert stack.pids()["a"] != before
    stack.process.send_signal(signal.SIGINT)
    assert stack.finish()[0] == 0


def test_a_service_that_keeps_dying_ends_the_stack(drive) -> None:
    stack = drive(
        '[[service("a", SLEEP)], [service("b", "print(\'no disk\', flush=True); sys.exit(3)")]]'
    )
    code, output = stack.finish()
    assert code == 1
    assert "b ended" in output
    assert "exit code 3" in output
    assert "no disk" in output
    assert str(stack.state / "logs/b.log") in output
    stack.assert_gone()


def test_a_service_that_is_never_ready_is_named_with_its_log(drive) -> None:
    body = "print('still thinking', flush=True); time.sleep(600)"
    stack = drive(f'[[service("slow", "{body}", never_ready=True, start_seconds=1.0)]]')
    code, output = stack.finish()
    assert code == 1
    assert "slow was not ready within 1 s: no mark" in output
    assert "still thinking" in output
    stack.assert_gone()


def test_a_deaf_service_is_killed_after_its_time(drive) -> None:
    stack = drive('[[service("deaf", DEAF, stop_seconds=1.0)]]')
    stack.wait_for("UP")
    while (stack.state / "marks/deaf").read_text() != "deaf":
        time.sleep(0.05)
    stack.process.terminate()
    code, output = stack.finish()
    assert code == 0
    assert "deaf did not stop in time and was killed" in output


def test_the_second_signal_hurries(drive) -> None:
    stack = drive(
        '[[service("deaf", DEAF, stop_seconds=600.0), service("dull", DEAF, stop_seconds=600.0)]]'
    )
    stack.wait_for("UP")
    for name in ("deaf", "dull"):
        while (stack.state / "marks" / name).read_text() != "deaf":
            time.sleep(0.05)
    # Two of one kind might be merged into one.
    stack.process.send_signal(signal.SIGINT)
    stack.process.send_signal(signal.SIGTERM)
    assert stack.finish() == (0, "killed on request\nstopped\n")


def test_a_signal_while_starting_stops_what_runs(drive) -> None:
    body = "print('still thinking', flush=True); time.sleep(600)"
    stack = drive(f'[[service("a", SLEEP)], [service("b", "{body}", never_ready=True)]]')
    stack.wait_for("a ")
    stack.process.terminate()
    code, output = stack.finish()
    assert (code, output.splitlines()[-1]) == (1, "stopped before the start was complete")
    stack.assert_gone()


def test_kill_9_of_the_stack_ends_its_services(drive) -> None:
    stack = drive('[[service("a", SLEEP)], [service("b", DEAF)]]')
    stack.wait_for("UP")
    assert len(stack.alive()) == 3
    stack.process.kill()
    stack.process.wait()
    stack.assert_gone()
