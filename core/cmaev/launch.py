"""`python -m cmaev.launch --run-dir D [--spec FILE]`: starts the runner of a job on this node.

What a supervisor or a pod runs. It knows the runners by name only and never imports torch itself.
A runner is a module with `main(argv) -> int`, called with `["--run-dir", D]`. One process runs it
right here; more are started by `cmaev.ranks`.

The exit code is the contract with whoever watches (cmaev_spec.exits): 0 succeeded; 64 bad
specification or data; 75 stopped on request, can go on; 1 an unexpected error; 128+n or a signal:
killed, worth another try. Bad input and unexpected errors also leave an outcome in `events.jsonl`.
"""

import argparse
import importlib
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from cmaev.ranks import STOP_SIGNALS, node_rank, run_ranks
from cmaev.runlock import hold_run
from cmaev_spec import lifeline
from cmaev_spec.events import OutcomeEvent
from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_STOPPED, BadInput, SaveError
from cmaev_spec.files import drop_partial_line, no_room
from cmaev_spec.job import load_job
from cmaev_spec.rundir import RunDir, event_line
from cmaev_spec.wire import RUNNERS

logger = logging.getLogger(__name__)

RANK_FLAG = "--as-rank"
CALLER_TELLS_FLAG = "--caller-tells"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job of a run directory to its end and returns the exit code of the contract."""
    parser = argparse.ArgumentParser(prog="python -m cmaev.launch", description=__doc__)
    parser.add_argument("--run-dir", required=True, help="run directory that holds spec.json")
    parser.add_argument("--spec", help="job that claims the run directory first, YAML or JSON")
    parser.add_argument(
        RANK_FLAG,
        dest="as_rank",
        action="store_true",
        help="be one rank of the run, started by torchrun or by this command",
    )
    parser.add_argument(
        CALLER_TELLS_FLAG,
        dest="caller_tells",
        action="store_true",
        help="print no bad input of the run, which the caller finds in its events.jsonl",
    )
    arguments = parser.parse_args(argv)
    # The group of a rank is its launcher's, and may be the user's shell script: it ends alone.
    lifeline.watch(on_lost=_end_now if arguments.as_rank else None)
    run = RunDir(arguments.run_dir)
    if arguments.spec is not None:
        try:
            run.claim(load_job(arguments.spec))
        except BadInput as error:
            # No outcome is recorded: the directory may be another run's.
            sys.stderr.write(f"error: {error}\n")
            return EXIT_BAD_INPUT
        except OSError as error:
            if (told := no_room(error)) is None:
                raise
            sys.stderr.write(f"error: {told}\n")
            return EXIT_FAILED
    tells = not arguments.caller_tells
    if arguments.as_rank:
        return guarded(run, lambda: run_rank(run), tells=tells)
    return guarded(run, lambda: run_node(run, tells=tells), tells=tells)


def run_node(run: RunDir, *, tells: bool) -> int:
    """Starts every process of the job that belongs to this node; see `guarded` for `tells`."""
    job = run.next_job()
    node = node_rank(job.resources, os.environ)
    with hold_run(run, node=node) as lock:
        if node == 0:
            drop_partial_line(run.events)
        if job.resources.world_size == 1:
            return run_rank(run)
        command = [sys.executable, "-m", "cmaev.launch", "--run-dir", str(run.path), RANK_FLAG]
        command += [] if tells else [CALLER_TELLS_FLAG]
        return run_ranks(command, resources=job.resources, keep_open=(lock,))


def run_rank(run: RunDir) -> int:
    """Calls the runner in this process."""
    # Until the runner has its own handler there is nothing to save, so a stop loses nothing.
    signal.signal(signal.SIGTERM, _stop_early)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    runner = importlib.import_module(RUNNERS[run.next_job().kind])
    return int(runner.main(["--run-dir", str(run.path)]))


def guarded(run: RunDir, start: Callable[[], int], *, tells: bool = True) -> int:
    """Calls `start` and turns what it raises into an exit code and an outcome event.

    Args:
        run: the run directory.
        start: what runs the job.
        tells: print bad input, too.
    """
    begin = run.events.stat().st_size if run.events.is_file() else 0
    try:
        return start()
    except BadInput as error:
        if tells:
            sys.stderr.write(f"error: {error}\n")
        run.withdraw()
        _record(run, begin, code=EXIT_BAD_INPUT, error=str(error))
        return EXIT_BAD_INPUT
    except Exception as error:
        if (told := _told_by_itself(error)) is None:
            traceback.print_exc()
        else:
            logger.debug("how it came to this", exc_info=error)
            sys.stderr.write(f"error: {told}\n")
        _record(run, begin, code=EXIT_FAILED, error=f"{type(error).__name__}: {error}")
        return EXIT_FAILED


def _told_by_itself(error: Exception) -> str | None:
    """The message of an end that needs no traceback: it diverged, or the disk is full."""
    if isinstance(error, FloatingPointError | SaveError):
        return str(error)
    return no_room(error) if isinstance(error, OSError) else None


def _record(run: RunDir, begin: int, *, code: int, error: str) -> None:
    """Appends the outcome, unless the runner wrote one after byte `begin` or the disk is full."""
    if not run.spec.is_file() or _has_outcome(run, begin):
        return
    event = OutcomeEvent(time=time.time(), status="failed", exit_code=code, error=error)
    try:
        _append(run, event)
    except OSError as failure:
        if (told := no_room(failure)) is None:
            raise
        sys.stderr.write(f"error: how the run ended cannot be recorded: {told}\n")


def _append(run: RunDir, event: OutcomeEvent) -> None:
    descriptor = os.open(run.events, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, event_line(event).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _has_outcome(run: RunDir, begin: int) -> bool:
    if not run.events.is_file():
        return False
    with open(run.events, "rb") as file:
        file.seek(begin)
        return any(_is_outcome(line) for line in file)


def _is_outcome(line: bytes) -> bool:
    try:
        event = json.loads(line)
    except ValueError:
        return False
    return isinstance(event, dict) and event.get("type") == "outcome"


def _end_now() -> None:
    """Ends this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


def _stop_early(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(EXIT_STOPPED)


def _end(code: int) -> NoReturn:
    """Ends this process where it stands, with all that was said.

    A thread of the process group may be about to ask for the interpreter; while that is being
    taken down, the answer is to abort the process, and a finished run would count as killed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    exit_code = main()
    if RANK_FLAG in sys.argv:
        _end(exit_code)
    sys.exit(exit_code)
