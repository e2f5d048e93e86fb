"""`cmaev keys …`: API keys, made directly in the database by whoever can reach it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cmaev_spec.exits import BadInput

if TYPE_CHECKING:
    from cmaev_api.db import Database

keys_app = typer.Typer(no_args_is_help=True, help="Make API keys and end them.")


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="whose key it is, for people")],
    scope: Annotated[list[str], typer.Option(help="admin or worker; may be given twice")],
) -> None:
    """Make a key and print it; it cannot be shown again."""
    from cmaev_api.keys import SCOPES, create_key

    scopes = [known for known in SCOPES if known in scope]
    if len(scopes) != len(set(scope)):
        raise BadInput(f"--scope: must be one of {', '.join(SCOPES)}")
    with _database() as database, database.write() as session:
        typer.echo(create_key(session, name=name, scopes=scopes))


@keys_app.command("list")
def list_all(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the keys; their secrets are not kept."""
    from cmaev_api.commands.output import echo_json, echo_table
    from cmaev_api.keys import KeyRead, list_keys

    with _database() as database, database.read() as session:
        keys = [KeyRead.model_validate(key) for key in list_keys(session)]
    if as_json:
        echo_json(keys)
        return
    rows = [
        [
            key.id,
            key.name,
            " ".join(key.scopes),
            f"{key.created_at:%F %T}",
            str(key.revoked_at or ""),
        ]
        for key in keys
    ]
    echo_table(["key", "name", "scopes", "made (UTC)", "revoked"], rows)


@keys_app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="KEY", help="id of a key")]) -> None:
    """End a key at once."""
    from cmaev_api.keys import revoke_key

    with _database() as database, database.write() as session:
        revoke_key(session, key_id)


@contextmanager
def _database() -> "Iterator[Database]":
    from cmaev_api.db import Database
    from cmaev_api.migrations import upgrade
    from cmaev_api.settings import load_settings

    settings = load_settings()
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database)
    try:
        upgrade(database.engine)
        yield database
    finally:
        database.close()
