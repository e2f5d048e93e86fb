"""`cmaev models …` and `cmaev classify`."""

from pathlib import Path
from typing import Annotated

import typer

from cmaev_api.commands.output import age, connect, echo_json, echo_table
from cmaev_spec.exits import EXIT_FAILED, BadInput

models_app = typer.Typer(no_args_is_help=True, help="Deploy models and look at them.")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@models_app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models that are served."""
    with connect() as client:
        models = client.models()
    if as_json:
        echo_json(models)
        return
    rows = [
        [item.name, str(item.version), item.status, item.job_id, age(item.created_at), item.detail]
        for item in models
    ]
    echo_table(["model", "version", "status", "job", "age", "detail"], rows)


@models_app.command()
def deploy(
    job: Annotated[str, typer.Argument(metavar="JOB", help="id of a succeeded export job")],
    name: Annotated[str | None, typer.Option(help="unset: the export's model_name")] = None,
    as_json: Json = False,
) -> None:
    """Deploy the archive of an export job as the new version of a model."""
    with connect() as client:
        model = client.deploy(job, name=name)
    serving = model.serving
    if as_json:
        echo_json(model)
    else:
        detail = f": {serving.detail}" if serving.detail else ""
        typer.echo(f"{serving.name} version {serving.version} {serving.status}{detail}")
    if serving.status == "failed":
        raise typer.Exit(EXIT_FAILED)


@models_app.command()
def delete(name: Annotated[str, typer.Argument(help="name of a model")]) -> None:
    """Stop serving a model; its versions stay on record."""
    with connect() as client:
        client.delete_model(name)


def classify(
    video: Annotated[Path, typer.Argument(help="a video file")],
    model: Annotated[str, typer.Option(help="name of a model")],
    top_k: Annotated[int, typer.Option(min=1, max=100, help="labels to tell")] = 5,
    as_json: Json = False,
) -> None:
    """Ask a model what happens in a video."""
    if not video.is_file():
        raise BadInput(f"there is no file {video}")
    with connect() as client:
        answer = client.classify(model, video, top_k=top_k)
    if as_json:
        echo_json(answer)
        return
    rows = [[item.label, f"{item.probability:.3f}"] for item in answer.predictions]
    echo_table(["label", "probability"], rows)
