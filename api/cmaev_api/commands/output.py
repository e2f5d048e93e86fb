"""What commands share: the client, errors as one clear line, JSON and tables."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cmaev_api.client import Client


@contextmanager
def connect() -> "Iterator[Client]":
    """The client of the control plane; its errors end the command with a clear line and code."""
    from cmaev_api.client import ApiError, Client

    with Client.from_environment() as client:
        try:
            yield client
        except ApiError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None


def echo_json(value: "BaseModel | Sequence[BaseModel]") -> None:
    """Prints a model or a list of them as JSON."""
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        typer.echo(value.model_dump_json(indent=2))
        return
    typer.echo(json.dumps([item.model_dump(mode="json") for item in value], indent=2))


def echo_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table as wide as the terminal; wider content is folded, never cut."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table, markup=False)


def age(moment: datetime | None) -> str:
    """How long ago a moment was, roughly."""
    if moment is None:
        return ""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
