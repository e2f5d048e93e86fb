"""`cmaev up`: the whole stack on this machine, in the foreground."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cmaev_spec.exits import EXIT_FAILED

if TYPE_CHECKING:
    from cmaev_api.local.services import Service
    from cmaev_api.local.state import StateDir

DEFAULT_STATE = Path("~/.local/share/cmaev")


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command("up")(up)


def up(
    state: Annotated[
        Path, typer.Option(envvar="CMAEV_STATE_DIR", help="Folder that keeps everything.")
    ] = DEFAULT_STATE,
    host: Annotated[str, typer.Option(help="Address the API listens on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the API; 0 picks a free one.")
    ] = 8080,
    workers: Annotated[int, typer.Option(min=0, max=64, help="Jobs that run at a time.")] = 1,
    backend: Annotated[
        Literal["torchserve", "inprocess"], typer.Option(help="What answers to videos.")
    ] = "torchserve",
    serving: Annotated[bool, typer.Option(help="Start the serving agent.")] = True,
) -> None:
    """Start the whole stack here: broker, API, workers, serving. Ctrl-C stops it."""
    from cmaev_api.local.ports import claim_port
    from cmaev_api.local.services import api_url
    from cmaev_api.local.state import StateDir

    folder = StateDir(state)
    try:
        port = claim_port(host, port)
        stages = plan(
            folder, host=host, port=port, workers=workers, backend=backend if serving else None
        )
        run(folder, stages=stages, url=api_url(host, port))
    finally:
        folder.close()


def run(state: "StateDir", *, stages: list[list["Service"]], url: str) -> None:
    """Runs the services in the foreground and tells people how it goes."""
    from rich.console import Console

    from cmaev_api.local.child import ServiceFailedError
    from cmaev_api.local.stack import Stack, StopRequestedError

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    known = state.api_key.is_file()
    console.print(f"starting cmaev, state in {state.path}")
    try:
        with console.status("starting") as progress:

            def greet() -> None:
                progress.stop()
                console.print(welcome(state, url=url, show_key=not known))

            stack = Stack(state, stages=stages, url=url, say=console.print, hint=progress.update)
            stack.run(on_ready=greet)
        console.print("stopped")
    except (ServiceFailedError, StopRequestedError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None


def plan(
    state: "StateDir", *, host: str, port: int, workers: int, backend: str | None
) -> list[list["Service"]]:
    """The services of a stack in starting order; stopping goes the other way."""
    import os

    from cmaev_api.local import services
    from cmaev_spec.ports import free_port

    stages: list[list[Service]] = []
    redis_url = os.environ.get("CMAEV_REDIS_URL")
    if not redis_url:
        redis_port = free_port()
        redis_url = services.valkey_url(state, port=redis_port)
        stages.append([services.valkey(state, port=redis_port)])
    agent = services.agent(state, port=free_port(), backend=backend) if backend else None
    serving_url = agent.address if agent else None
    stages.append(
        [services.api(state, host=host, port=port, redis_url=redis_url, serving_url=serving_url)]
    )
    url = services.api_url(host, port)
    last = [
        services.worker(state, number=number, url=url, redis_url=redis_url)
        for number in range(1, workers + 1)
    ]
    if agent is not None:
        last.append(agent)
    return [*stages, last] if last else stages


def welcome(state: "StateDir", *, url: str, show_key: bool) -> str:
    """What a person needs to go on; the key itself is shown once, at the first start."""
    lines = ["", f"cmaev is up: {url}   (API docs: {url}/docs)"]
    if state.api_key.is_file():
        if show_key:
            lines.append(f"API key: {state.api_key.read_text(encoding='utf-8').strip()}")
        lines.append(f"API key file: {state.api_key}")
    lines += [
        f"logs: {state.logs}",
        f"in another terminal: export CMAEV_STATE_DIR={shlex.quote(str(state.path))}",
        "next: cmaev demo | cmaev submit SPEC.yaml | cmaev jobs list",
        "Ctrl-C stops everything; running jobs save a checkpoint and go on at the next start.",
    ]
    return "\n".join(lines)
