"""`cmaev submit` and `cmaev jobs …`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmaev_api.commands.output import age, connect, echo_json, echo_table

if TYPE_CHECKING:
    from cmaev_api.client import Client
    from cmaev_api.jobs.schemas import JobRead
    from cmaev_spec.events import ProgressEvent

jobs_app = typer.Typer(no_args_is_help=True, help="Look at jobs and steer them.")
JobId = Annotated[str, typer.Argument(metavar="JOB", help="id of a job")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def submit(
    spec: Annotated[Path, typer.Argument(help="YAML or JSON file of a job")],
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a field")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="watch the job to its end")] = False,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="a repeat gives the same job")
    ] = None,
    as_json: Json = False,
) -> None:
    """Submit a job; paths in SPEC are taken from the current folder."""
    from cmaev_api.commands.paths import absolute_paths
    from cmaev_api.commands.watch import watch_job
    from cmaev_spec.job import load_job

    job_spec = absolute_paths(load_job(spec, overrides=override or ()))
    with connect() as client:
        job = client.submit(job_spec, idempotency_key=key)
        if not as_json:
            typer.echo(f"{job.id} {job.kind} {job.state}")
        if wait:
            watch_job(client, job.id, quiet=as_json)
        if as_json:
            echo_json(client.job(job.id) if wait else job)


@jobs_app.command("list")
def list_jobs(
    state: Annotated[list[str] | None, typer.Option(help="only this state")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="only this kind")] = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 50,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connect() as client:
        jobs = client.jobs(states=state or (), kinds=kind or (), limit=limit)
    if as_json:
        echo_json(jobs)
        return
    rows = [
        [job.id, job.kind, job.state, _progress(job.progress), age(job.created_at), job.name or ""]
        for job in jobs
    ]
    echo_table(["job", "kind", "state", "progress", "age", "name"], rows)


@jobs_app.command()
def show(job_id: JobId, as_json: Json = False) -> None:
    """Show a job, its attempts and its latest figures."""
    import yaml

    with connect() as client:
        job = client.job(job_id)
    if as_json:
        echo_json(job)
        return
    data = job.model_dump(mode="json", exclude_none=True)
    typer.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip())


@jobs_app.command()
def watch(job_id: JobId) -> None:
    """Watch a job to its end; Ctrl-C only ends the watching."""
    from cmaev_api.commands.watch import watch_job

    with connect() as client:
        watch_job(client, job_id)


@jobs_app.command()
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until it ends")] = False,
) -> None:
    """Print the end of a job's log."""
    with connect() as client:
        text, offset = client.logs(job_id)
        typer.echo(text, nl=False)
        ended = not follow
        while not ended:
            ended = client.job(job_id).state.terminal
            text, offset = client.logs(job_id, offset=offset)
            typer.echo(text, nl=False)
            if not text and not ended:
                time.sleep(1.0)


@jobs_app.command()
def cancel(job_id: JobId, as_json: Json = False) -> None:
    """Cancel a job."""
    _act(lambda client: client.cancel(job_id), as_json=as_json)


@jobs_app.command()
def pause(job_id: JobId, as_json: Json = False) -> None:
    """Pause a job; a running one saves a checkpoint first."""
    _act(lambda client: client.pause(job_id), as_json=as_json)


@jobs_app.command()
def resume(job_id: JobId, as_json: Json = False) -> None:
    """Resume a paused job from its last checkpoint."""
    _act(lambda client: client.resume(job_id), as_json=as_json)


@jobs_app.command()
def retry(job_id: JobId, as_json: Json = False) -> None:
    """Submit a finished job again, as a new job."""
    _act(lambda client: client.retry(job_id), as_json=as_json)


def _act(action: "Callable[[Client], JobRead]", *, as_json: bool) -> None:
    with connect() as client:
        job = action(client)
    if as_json:
        echo_json(job)
    else:
        typer.echo(f"{job.id} {job.kind} {job.state}")


def _progress(progress: "ProgressEvent | None") -> str:
    if progress is None or progress.total_steps == 0:
        return ""
    return f"{100 * progress.step / progress.total_steps:.0f} %"
