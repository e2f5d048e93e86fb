"""The two logs of a run: `events.jsonl` for the services, `metrics.jsonl` for curves."""

import json
import logging
import math
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from cmaev.engine.trackers import Forwarding, Tracker
from cmaev.engine.validation import PREFIX
from cmaev_spec import faults
from cmaev_spec.events import (
    ArtifactEvent,
    MetricEvent,
    OutcomeEvent,
    ProgressEvent,
    RunEvent,
    StartedEvent,
    WarningEvent,
)
from cmaev_spec.files import drop_partial_line, sha256_file, write_atomic
from cmaev_spec.rundir import RunDir, event_line

logger = logging.getLogger(__name__)

ArtifactKind = Literal[
    "checkpoint", "picture", "predictions", "onnx", "archive", "metrics", "other"
]


class EventLog:
    """Appends events to `events.jsonl`; a disabled log (ranks other than 0) writes nothing."""

    def __init__(
        self, run: RunDir, *, enabled: bool = True, trackers: Sequence[Tracker] = ()
    ) -> None:
        """Opens the log.

        Args:
            run: whose log it is.
            enabled: whether this process writes.
            trackers: are told of the start and of every metric.
        """
        self._run = run
        self._enabled = enabled
        self._lock = threading.Lock()
        self._trackers = Forwarding(trackers if enabled else (), warn=self.warning)
        if enabled:
            drop_partial_line(run.events)

    def write(self, event: RunEvent) -> None:
        """Appends one event and makes it durable."""
        if not self._enabled:
            return
        # Checkpoints are announced by the thread that writes them.
        with self._lock, open(self._run.events, "a", encoding="utf-8") as file:
            faults.write(file, event_line(event), point="events:append")
            file.flush()
            os.fsync(file.fileno())

    def started(self, *, resumed_step: int, total_steps: int, device: str, message: str) -> None:
        """The runner began."""
        self.write(
            StartedEvent(
                time=time.time(),
                resumed_step=resumed_step,
                total_steps=total_steps,
                device=device,
                message=message,
            )
        )
        self._trackers.start(resumed_step=resumed_step)

    def progress(
        self,
        stage: str,
        *,
        step: int,
        total_steps: int,
        epoch: float = 0.0,
        clips_per_second: float | None = None,
        eta_seconds: float | None = None,
    ) -> None:
        """How far the run is."""
        self.write(
            ProgressEvent(
                time=time.time(),
                stage=stage,
                step=step,
                total_steps=total_steps,
                epoch=epoch,
                clips_per_second=clips_per_second,
                eta_seconds=eta_seconds,
            )
        )

    def metric(self, step: int, values: dict[str, float]) -> None:
        """Named values at a step; those that are not finite are left out."""
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self.write(MetricEvent(time=time.time(), step=step, values=values))
        self._trackers.log(step, values)

    def artifact(self, kind: ArtifactKind, path: Path, *, sha256: str | None = None) -> None:
        """A file of the run that is complete; it is hashed here unless its hash is known."""
        if not self._enabled:
            return
        self.write(
            ArtifactEvent(
                time=time.time(),
                kind=kind,
                path=path.relative_to(self._run.path).as_posix(),
                bytes=path.stat().st_size,
                sha256=sha256 or sha256_file(path),
            )
        )

    def warning(self, message: str) -> None:
        """Something a person should know about."""
        self.write(WarningEvent(time=time.time(), message=message))

    def outcome(
        self,
        status: Literal["succeeded", "failed", "stopped"],
        *,
        exit_code: int,
        error: str | None = None,
        summary: dict[str, float] | None = None,
    ) -> None:
        """The last word."""
        self.write(
            OutcomeEvent(
                time=time.time(),
                status=status,
                exit_code=exit_code,
                error=error,
                summary=summary or {},
            )
        )


class MetricLog:
    """`metrics.jsonl`: one object per logged step, cut back to the checkpoint on resume."""

    def __init__(self, path: Path, *, enabled: bool = True) -> None:
        self._path = path
        self._enabled = enabled

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row."""
        if self._enabled:
            with open(self._path, "a", encoding="utf-8") as file:
                faults.write(file, json.dumps(row) + "\n", point="metrics:append")

    def cut_back(self, step: int, *, measured: bool = False) -> None:
        """Drops rows after `step`, and lines that are damaged or not whole.

        Args:
            step: of the checkpoint.
            measured: whether its figures are known; they are measured again where not.
        """
        if not self._enabled or not self._path.exists():
            return
        drop_partial_line(self._path)
        rows = [row for row in read_metrics(self._path) if _stays(row, step, measured=measured)]
        write_atomic(self._path, "".join(json.dumps(row) + "\n" for row in rows))


def _stays(row: dict[str, Any], step: int, *, measured: bool) -> bool:
    figures = any(name.startswith(PREFIX) for name in row)
    return bool(row["step"] < step or (row["step"] == step and (measured or not figures)))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a `metrics.jsonl`, without damaged ones; empty where there is none yet."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [_row(line) for line in lines]
    for number, row in enumerate(rows[:-1], start=1):  # the last may not be whole yet
        if row is None:
            logger.warning("passing over line %d of %s: it is damaged", number, path)
    return [row for row in rows if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
