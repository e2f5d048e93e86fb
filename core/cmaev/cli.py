"""`cmaev`: the root command.

Sub-commands of the other packages join by the entry-point group `cmaev.commands`: each names a
function that adds its commands to the application. Nothing heavy is imported until a command runs,
so `cmaev --help` answers at once.
"""

import sys
from importlib.metadata import entry_points

import typer

from cmaev import k8s_cli
from cmaev_spec import __version__
from cmaev_spec.exits import EXIT_BAD_INPUT, BadInput

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
    app.add_typer(data_app, name="data")
    app.add_typer(presets_app, name="presets")
    k8s_cli.register(app)
    for point in sorted(entry_points(group="cmaev.commands"), key=lambda item: item.name):
        point.load()(app)
    return app


def main() -> None:
    """Entry point: bad specifications and data end with code 64 and one clear line."""
    app = build()
    try:
        app()
    except BadInput as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_BAD_INPUT)


def version() -> None:
    """Print the version."""
    typer.echo(__version__)
