"""`python -m cmaev_api`: the control plane in the foreground, as `cmaev serve`."""

import sys

import typer

from cmaev_api.commands.serve import serve
from cmaev_spec.exits import EXIT_BAD_INPUT, BadInput


def main() -> None:
    """Serves until SIGTERM or SIGINT; wrong settings end with one clear line."""
    try:
        typer.run(serve)
    except BadInput as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
