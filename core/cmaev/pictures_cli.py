"""`cmaev pictures`: what a run learned, to be looked at."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command to the root command."""
    app.command("pictures")(pictures)


def pictures(
    run: Annotated[str, typer.Argument(help="A run of any kind: its directory, or job:<id>.")],
    videos: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help="A video to show, more than once for several; default: the run's."
        ),
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, max=64, help="How many of the run's own videos to show.")
    ] = 4,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write into; default: pictures/ of the run.")
    ] = None,
) -> None:
    """Draw reconstructions, attention, losses and confusions as PNG and as one HTML page."""
    from cmaev.pictures.gallery import picture_run
    from cmaev_spec.rundir import resolve_run

    source = resolve_run(run)
    page = picture_run(source, videos=videos or (), count=count, out=out or source.pictures)
    typer.echo(f"page  {page}")
