"""Watching a job: a progress bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cmaev_api.client import ApiError, Client
from cmaev_api.jobs.schemas import JobRead
from cmaev_spec.exits import EXIT_FAILED, EXIT_STOPPED
from cmaev_spec.state import JobState

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BEFORE_REASON = 3.0
WORKING = (JobState.STARTING, JobState.RUNNING)


class View(Protocol):
    """Something that shows how a job gets on."""

    def update(self, job: JobRead) -> None:
        """Shows the job as it is now."""


def follow_job(client: Client, job_id: str) -> JobRead:
    """Shows a job until it has ended or is paused, and returns it as it is then."""
    if not sys.stdout.isatty():
        reasons = _Reasons(client, typer.echo)
        return client.wait(job_id, on_change=_Lines().update, on_poll=reasons.update)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rate]}"),
        console=Console(),
    ) as progress:
        reasons = _Reasons(client, progress.console.print)
        return client.wait(job_id, on_change=_Bar(progress).update, on_poll=reasons.update)


def watch_job(client: Client, job_id: str, *, quiet: bool = False) -> None:
    """Shows a job until it has ended or is paused; ends the command unless it succeeded.

    Raises:
        typer.Exit: 1 for a failed or cancelled job, 75 for a paused one.
    """
    try:
        job = client.wait(job_id) if quiet else follow_job(client, job_id)
    except KeyboardInterrupt:
        typer.echo(f"\nthe job goes on; `cmaev jobs watch {job_id}` shows it again", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    if not quiet:
        typer.echo(_last_line(job))
    if job.state == JobState.PAUSED:
        raise typer.Exit(EXIT_STOPPED)
    if job.state != JobState.SUCCEEDED:
        raise typer.Exit(EXIT_FAILED)


class _Bar:
    """One rich progress bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, rate="")

    def update(self, job: JobRead) -> None:
        event = job.progress
        self._progress.update(
            self._task,
            description=f"{job.kind} {job.state}" + (f" · {event.stage}" if event else ""),
            completed=event.step if event else 0,
            total=(event.total_steps or None) if event else None,
            rate=_rate(job),
        )


class _Lines:
    """A line for each new state or stage, and now and then for a new step."""

    def __init__(self) -> None:
        self._shown: tuple[str, str] | None = None
        self._next_line = 0.0

    def update(self, job: JobRead) -> None:
        event = job.progress
        where = (job.state.value, event.stage if event else "")
        if where == self._shown and time.monotonic() < self._next_line:
            return
        self._shown, self._next_line = where, time.monotonic() + SECONDS_BETWEEN_LINES
        steps = f" {event.step}/{event.total_steps}" if event else ""
        typer.echo(" ".join(f"{job.kind} {where[0]} {where[1]}{steps} {_rate(job)}".split()))


class _Reasons:
    """Tells once why a job does not start, when it has not for a while."""

    def __init__(self, client: Client, say: Callable[[str], None]) -> None:
        self._client = client
        self._say = say
        self._state: JobState | None = None
        self._since = 0.0
        self._told = False

    def update(self, job: JobRead) -> None:
        now = time.monotonic()
        if job.state != self._state:
            self._state, self._since, self._told = job.state, now, False
        if self._told or now - self._since < SECONDS_BEFORE_REASON:
            return
        if job.state == JobState.WAITING:
            self._tell(f"waiting for job {job.reference_id}")
        elif job.state == JobState.QUEUED:
            try:
                busy = self._client.jobs(states=WORKING)
            except ApiError:
                return  # the next poll asks again
            ids = ", ".join(item.id for item in busy)
            self._tell("waiting for a free worker" + (f"; under way: {ids}" if ids else ""))

    def _tell(self, reason: str) -> None:
        self._say(reason)
        self._told = True


def _rate(job: JobRead) -> str:
    event = job.progress
    parts = []
    if event is not None and event.clips_per_second is not None:
        parts.append(f"{event.clips_per_second:.0f} clips/s")
    if event is not None and event.eta_seconds is not None:
        parts.append(f"{event.eta_seconds:.0f} s left")
    return ", ".join(parts)


def _last_line(job: JobRead) -> str:
    figures = ", ".join(
        f"{name} {value:.4g}" for name, value in (job.summary or {}).items() if value is not None
    )
    return f"{job.id} {job.state}" + (
        f": {job.error}" if job.error else f" ({figures})" if figures else ""
    )
