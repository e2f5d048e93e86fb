"""`cmaev`: the root command.

Sub-commands of the other packages join by the entry-point group `cmaev.commands`: each names a
function that adds its commands to the application. Nothing heavy is imported until a command runs,
so `cmaev --help` answers at once.
"""

import json
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmaev import k8s_cli, pictures_cli, weights_cli
from cmaev.data import cli as data_cli
from cmaev_spec import __version__
from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, BadInput
from cmaev_spec.files import no_room

if TYPE_CHECKING:
    from cmaev_spec.job import JobSpec
    from cmaev_spec.rundir import RunDir

data_app = typer.Typer(no_args_is_help=True, help="Make, look at and check videos and indexes.")
presets_app = typer.Typer(no_args_is_help=True, help="Ready-made job specifications.")


def build() -> typer.Typer:
    """The application with the commands of every installed package."""
    app = typer.Typer(
        name="cmaev",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="From unlabelled videos to a served action recogniser.",
    )
    app.command("train")(train)
    app.command("version")(version)
    data_cli.register(data_app)
    app.add_typer(data_app, name="data")
    app.add_typer(presets_app, name="presets")
    k8s_cli.register(app)
    weights_cli.register(app)
    pictures_cli.register(app)
    for point in sorted(entry_points(group="cmaev.commands"), key=lambda item: item.name):
        point.load()(app)
    return app


def main() -> None:
    """Entry point: bad specifications and data end with code 64 and one clear line.

    So does a full disk, with code 1, since the same command may work once there is room.
    """
    app = build()
    try:
        app()
    except BadInput as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_BAD_INPUT)
    except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        typer.echo(f"error: {error.filename}: {error.strerror}", err=True)
        sys.exit(EXIT_BAD_INPUT)
    except OSError as error:
        if (told := no_room(error)) is None:
            raise
        typer.echo(f"error: {told}", err=True)
        sys.exit(EXIT_FAILED)


def train(
    spec: Annotated[Path, typer.Argument(help="job specification, YAML or JSON")],
    run_dir: Annotated[
        Path | None, typer.Option(help="where the run is kept; ./runs/<spec name> by default")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="e.g. optim.epochs=10")
    ] = None,
    allow_changes: Annotated[
        bool, typer.Option(help="go on with a run whose job was another, where that can be")
    ] = False,
) -> None:
    """Run a pretrain, finetune, probe or evaluate job here; run it again to resume."""
    from cmaev import launch
    from cmaev.data.output import local_output
    from cmaev_spec.job import SpecError, load_job
    from cmaev_spec.rundir import RunDir

    job = load_job(spec, overrides=overrides or ())
    if job.kind == "export":
        raise SpecError([("kind", "this is an export job; use `cmaev export RUN --out DIR`")])
    run = RunDir(local_output(run_dir or Path("runs") / spec.stem))
    claim(run, job, allow_changes=allow_changes)
    typer.echo(f"run directory: {run.path}")
    code = launch.main(["--run-dir", str(run.path)])
    if code == EXIT_OK and run.summary.is_file():
        typer.echo(run.summary.read_text().rstrip())
    raise typer.Exit(code)


def claim(run: "RunDir", job: "JobSpec", *, allow_changes: bool = False) -> None:
    """Claims a run directory; a run that failed before its first checkpoint makes room."""
    from cmaev.runlock import RunBusyError, hold_run
    from cmaev_spec.job import SpecError

    if run.path.is_dir() and not os.access(run.path, os.W_OK | os.X_OK):
        raise SpecError([("run_dir", f"{run.path} cannot be written into; choose another")])
    try:
        run.claim(job)
    except SpecError:
        if allow_changes and run.spec.is_file() and run.next_job() == job:
            return  # another node asked for it, and may hold the directory by now
        begun = bool(run.complete_checkpoints()) or run.summary.exists()
        if not run.spec.is_file() or (begun and not allow_changes):
            raise
        try:
            with hold_run(run, patience=0.0):
                if not begun:
                    run.discard()
                run.claim(job, allow_changes=allow_changes)
        except RunBusyError as error:
            raise SpecError([("run_dir", str(error))]) from None


@presets_app.command("list")
def list_presets(
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON list")] = False,
) -> None:
    """Name every preset."""
    from cmaev_spec import preset

    names = preset.list_presets()
    typer.echo(json.dumps(names) if as_json else "\n".join(names))


@presets_app.command("show")
def show_preset(
    name: Annotated[str, typer.Argument(help="one of `cmaev presets list`")],
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, without comments")] = False,
) -> None:
    """Print a preset, to be saved, edited and run."""
    from cmaev_spec import preset

    if as_json:
        typer.echo(json.dumps(preset.load_preset(name), indent=2))
    else:
        typer.echo(preset.preset_text(name), nl=False)


def version() -> None:
    """Print the version."""
    typer.echo(__version__)
