"""Watching a job: a progress bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cmaev_api.client import Client
from cmaev_api.jobs.schemas import JobRead
from cmaev_spec.exits import EXIT_FAILED, EXIT_STOPPED
from cmaev_spec.state import JobState

SECONDS_BETWEEN_LINES = 5.0


class View(Protocol):
    """Something that shows how a job gets on."""

    def update(self, job: JobRead) -> None:
        """Shows the job as it is now."""


def follow_job(client: Client, job_id: str) -> JobRead:
    """Shows a job until it has ended or is paused, and returns it as it is then."""
    if not sys.stdout.isatty():
        return client.wait(job_id, on_change=_Lines().update)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rate]}"),
        console=Console(),
    ) as progress:
        return client.wait(job_id, on_change=_Bar(progress).update)


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
