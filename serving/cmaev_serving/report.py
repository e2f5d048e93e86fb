"""What an export run tells the world: events, exit code, summary."""

import json
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Literal

from cmaev_spec.events import (
    ArtifactEvent,
    EventBase,
    OutcomeEvent,
    ProgressEvent,
    StartedEvent,
)
from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, EXIT_STOPPED, BadInput
from cmaev_spec.files import sha256_file, write_atomic
from cmaev_spec.rundir import RunDir, event_line

_logger = logging.getLogger(__name__)


class StopRequestedError(Exception):
    """SIGTERM or SIGINT came: end now, leave nothing half done."""


class Reporter:
    """Appends events to a run's `events.jsonl`."""

    def __init__(self, run: RunDir) -> None:
        self._run = run

    def emit(self, event: EventBase) -> None:
        """Appends one event; a line is written in one call."""
        with open(self._run.events, "ab") as file:
            file.write(event_line(event).encode())

    def progress(self, stage: str, step: int, total: int) -> None:
        """Reports how far the run is."""
        _logger.info("%s (%d/%d)", stage, step, total)
        self.emit(ProgressEvent(time=time.time(), stage=stage, step=step, total_steps=total))

    def artifact(self, kind: Literal["onnx", "archive", "other"], path: Path) -> None:
        """Reports a finished file of the run."""
        self.emit(
            ArtifactEvent(
                time=time.time(),
                kind=kind,
                path=path.relative_to(self._run.path).as_posix(),
                bytes=path.stat().st_size,
                sha256=sha256_file(path),
            )
        )


def run_reported(run: RunDir, work: Callable[[Reporter], dict[str, float]]) -> int:
    """Runs `work` between its started and its outcome event; returns the exit code.

    SIGTERM and SIGINT end the work with EXIT_STOPPED: nothing is half written, so it can be
    started again at any time.
    """
    reporter = Reporter(run)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    reporter.emit(StartedEvent(time=time.time(), message="export"))
    summary: dict[str, float] = {}
    error: str | None = None
    status: Literal["succeeded", "failed", "stopped"] = "failed"
    try:
        summary = work(reporter)
        write_atomic(run.summary, json.dumps(summary, indent=1, sort_keys=True) + "\n")
        code, status = EXIT_OK, "succeeded"
    except StopRequestedError:
        code, status = EXIT_STOPPED, "stopped"
    except BadInput as problem:
        _logger.error("%s", problem)
        code, error = EXIT_BAD_INPUT, str(problem)
    except Exception as problem:
        _logger.exception("export failed")
        code, error = EXIT_FAILED, str(problem) or type(problem).__name__
    reporter.emit(
        OutcomeEvent(time=time.time(), status=status, exit_code=code, error=error, summary=summary)
    )
    return code


def _stop(number: int, frame: FrameType | None) -> None:
    raise StopRequestedError(signal.Signals(number).name)
