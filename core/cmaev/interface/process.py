"""Runs a job to its end in processes of its own, and turns how it ended into an exception.

The caller's process is left alone: no signal handler stays changed, no seed or thread count is set,
memory of a GPU is free again afterwards, and loader processes never import the caller's script.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, TextIO

from cmaev.launch import CALLER_TELLS_FLAG
from cmaev_spec import lifeline
from cmaev_spec.events import EVENT_ADAPTER, OutcomeEvent
from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_OK, EXIT_STOPPED, BadInput
from cmaev_spec.rundir import RunDir


class RunStopped(RuntimeError):  # noqa: N818 - nothing went wrong
    """A run was stopped from outside after a checkpoint; it can go on."""


class RunFailed(RuntimeError):  # noqa: N818 - named after the state of a job
    """A run ended by an error that is not in its specification or data."""


def run_to_end(run: RunDir, *, progress: bool) -> None:
    """Runs the job of a claimed run directory, from its newest checkpoint where it has one.

    KeyboardInterrupt asks the run to stop, waits until it has saved a checkpoint, and is raised
    then; a second one ends it at once. In the main thread SIGTERM does the same, and is delivered
    to this process again afterwards.

    Args:
        run: the run directory.
        progress: show what the run prints, or append it to its `log.txt`.

    Raises:
        BadInput: if the specification or the data is at fault.
        RunStopped: if it was stopped by somebody else.
        RunFailed: for any other end before the last step.
    """
    begin = run.events.stat().st_size if run.events.is_file() else 0
    command = [sys.executable, "-m", "cmaev.launch", "--run-dir", str(run.path)]
    command += [CALLER_TELLS_FLAG] if progress else []  # the log has it, in place of the terminal
    with _output(run, progress=progress) as stream:
        errors = None if stream is None else subprocess.STDOUT
        child = lifeline.spawn(command, stdout=stream, stderr=errors)
        with _shown(child.process), closing(child), _sigterm_passed_on(child.process):
            code = _wait(child.process)
    if code == EXIT_OK:
        return
    error = _error(run, begin) or f"it ended with code {code}"
    if code == EXIT_BAD_INPUT:
        raise BadInput(error)
    if code == EXIT_STOPPED:
        raise RunStopped(f"{run.path} was stopped after a checkpoint; resume() goes on")
    where = "above" if progress else f"in {run.log}"
    raise RunFailed(f"{run.path}: {error}; what it printed is {where}")


@contextmanager
def _output(run: RunDir, *, progress: bool) -> Iterator[IO[bytes] | int | None]:
    """Where the run prints to: the terminal, a pipe to whatever `sys.stdout` is, or its log."""
    if not progress:
        with open(run.log, "ab") as log:
            yield log
    elif sys.stdout.isatty():
        yield None
    else:
        yield subprocess.PIPE


@contextmanager
def _shown(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Writes the lines of a piped process to `sys.stdout`, which a notebook shows."""
    pipe = process.stdout
    if pipe is None:
        yield
        return
    thread = threading.Thread(target=_copy_lines, args=(pipe, sys.stdout), daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()  # It ends with the last process that holds the other end.


def _copy_lines(pipe: IO[bytes], out: TextIO) -> None:
    with pipe:
        for line in pipe:
            out.write(line.decode(errors="replace"))
            out.flush()


@contextmanager
def _sigterm_passed_on(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """While a run goes on SIGTERM is for the run; this process gets it when that has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = False

    def pass_on(number: int, _frame: object) -> None:
        nonlocal received
        received = True
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        if received:
            signal.raise_signal(signal.SIGTERM)


def _wait(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait()
    except KeyboardInterrupt:
        sys.stderr.write("stopping after a checkpoint; interrupt again to stop without one\n")
        process.terminate()
        process.wait()
        raise


def _error(run: RunDir, begin: int) -> str | None:
    """The error in the last outcome that was written after byte `begin` of the events."""
    if not run.events.is_file():
        return None
    events = map(EVENT_ADAPTER.validate_json, _whole_lines(run.events, begin))
    outcomes = [event for event in events if isinstance(event, OutcomeEvent)]
    return outcomes[-1].error if outcomes else None


def _whole_lines(path: Path, begin: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(begin)
        yield from (line for line in file if line.endswith(b"\n"))
