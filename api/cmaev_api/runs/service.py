"""Reading back what a run reported and what it left in its directory."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy.orm import Session

from cmaev_api.errors import not_found
from cmaev_api.jobs.repository import JobRepository
from cmaev_api.runs.repository import EventRepository
from cmaev_api.runs.schemas import Artifact, ArtifactList, EventPage, MetricRows, StoredEvent
from cmaev_api.settings import Settings
from cmaev_spec.events import ArtifactEvent
from cmaev_spec.rundir import RunDir


@dataclass(frozen=True)
class LogPart:
    """A part of a log, and the byte after it."""

    data: bytes
    end: int


class RunService:
    """The run of a job, for looking."""

    def __init__(self, session: Session, *, settings: Settings) -> None:
        self._settings = settings
        self._jobs = JobRepository(session)
        self._events = EventRepository(session)

    def events(self, job_id: str, *, after: int, limit: int) -> EventPage:
        """Events after an offset.

        Raises:
            ProblemError: 404 if there is no such job; so do all methods here.
        """
        self._run(job_id)
        rows = self._events.page(job_id, after=after, limit=limit)
        return EventPage(
            items=[StoredEvent(end_offset=row.end_offset, event=row.data) for row in rows],
            next_after=rows[-1].end_offset if rows else after,
        )

    def log(self, job_id: str, *, offset: int | None, tail: int) -> LogPart:
        """At most `tail` bytes of the log: from `offset`, or its last whole lines."""
        return read_log(self._run(job_id).log, offset=offset, limit=tail)

    def metrics(self, job_id: str, *, after: int, limit: int) -> MetricRows:
        """Rows of `metrics.jsonl` after the first `after` lines, without damaged ones."""
        path = self._run(job_id).metrics
        rows: list[dict[str, Any]] = []
        end = after
        if path.is_file():
            with open(path, encoding="utf-8", errors="replace") as file:
                for number, line in enumerate(file):
                    if len(rows) == limit or not line.endswith("\n"):  # a row still being written
                        break
                    if number >= after:
                        rows += _row(line)
                        end = number + 1
        return MetricRows(items=rows, next_after=end)

    def artifacts(self, job_id: str) -> ArtifactList:
        """The files that the run announced."""
        run = self._run(job_id)
        return ArtifactList(
            items=[_describe(job_id, run, event) for event in self._events.artifacts(job_id)]
        )

    def file(self, job_id: str, path: str) -> Path:
        """A file of the run directory.

        Raises:
            ProblemError: 404 if there is no such job or file, or the path leads elsewhere.
        """
        target = _resolve(self._run(job_id), path)
        if target is None:
            raise not_found(
                f"job {job_id} has no file {path!r}",
                fix=f"GET /v1/jobs/{job_id}/artifacts lists its files",
            )
        return target

    def _run(self, job_id: str) -> RunDir:
        if self._jobs.get(job_id) is None:
            raise not_found(f"there is no job {job_id!r}", fix="`cmaev jobs list` shows the jobs")
        return RunDir(self._settings.runs / job_id)


def _row(line: str) -> list[dict[str, Any]]:
    """The row of a line; none where it is damaged, which the run says itself when it goes on."""
    try:
        row = json.loads(line, parse_constant=lambda _name: None)
    except ValueError:
        return []
    return [row] if isinstance(row, dict) else []


def read_log(path: Path, *, offset: int | None, limit: int) -> LogPart:
    """At most `limit` bytes of a log: from `offset`, or the last whole lines; empty without one."""
    if not path.is_file():
        return LogPart(b"", offset or 0)
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - limit) if offset is None else min(offset, size)
        file.seek(start)
        data = file.read(limit)
    if offset is None and start > 0:
        data = data[data.find(b"\n") + 1 :]
        return LogPart(data, size)
    return LogPart(data, start + len(data))


def _describe(job_id: str, run: RunDir, event: ArtifactEvent) -> Artifact:
    return Artifact(
        kind=event.kind,
        path=event.path,
        bytes=event.bytes,
        sha256=event.sha256,
        exists=_resolve(run, event.path) is not None,
        url=f"/v1/jobs/{job_id}/artifacts/{quote(event.path)}",
    )


def _resolve(run: RunDir, path: str) -> Path | None:
    """The regular file that `path` means, unless it leads out of the run directory."""
    try:
        target = run.resolve(path)
    except ValueError:
        return None
    return target if target.is_file() else None
