"""The commands of the serving side: `cmaev export`, `cmaev predict`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands to the root command."""
    app.command("export")(export)
    app.command("predict")(predict)


def export(
    run: Annotated[str, typer.Argument(help="A finetuned run: its directory, or job:<id>.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    name: Annotated[str, typer.Option(help="Name of the model.")] = "action-recogniser",
    num_clips: Annotated[
        int, typer.Option(min=1, max=20, help="Views in time that an answer averages.")
    ] = 1,
    checkpoint: Annotated[
        str, typer.Option(help="Of the run's checkpoints: newest, or best.")
    ] = "newest",
    archive: Annotated[bool, typer.Option(help="Also write the TorchServe archive.")] = True,
) -> None:
    """Write a finetuned run as ONNX, proven equal to PyTorch, and as a TorchServe archive."""
    from cmaev.data.output import local_output
    from cmaev_serving.export import export_run
    from cmaev_serving.parity import ParityError
    from cmaev_spec.job import ExportJob, parse_job
    from cmaev_spec.rundir import resolve_run

    job = parse_job(
        {
            "kind": "export",
            "source": run,
            "checkpoint": checkpoint,
            "model_name": name,
            "num_clips": num_clips,
        }
    )
    assert isinstance(job, ExportJob)
    try:
        result = export_run(
            resolve_run(job.source),
            local_output(out),
            name=job.model_name,
            num_clips=job.num_clips,
            which=job.checkpoint,
            archive=archive,
            on_stage=lambda stage: typer.echo(f"{stage} …", err=True),
        )
    except ParityError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"onnx     {result.onnx}")
    if result.archive is not None:
        typer.echo(f"archive  {result.archive}")
    typer.echo(f"labels   {', '.join(result.metadata.labels)}")
    typer.echo(f"parity   {result.parity.max_difference:.2g} (allowed {result.parity.tolerance:g})")


def predict(
    model: Annotated[Path, typer.Argument(help="An .onnx file, or the folder or run it lies in.")],
    video: Annotated[Path, typer.Argument(help="A video file.")],
    top_k: Annotated[int, typer.Option(min=1, help="How many labels to show.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Classify a video with an exported model."""
    from cmaev.data.errors import DataError
    from cmaev_serving.predictor import Predictor, find_model
    from cmaev_serving.runtime import parse_device
    from cmaev_spec.exits import BadInput

    if not video.is_file():
        raise BadInput(f"video: {video} is not there")
    predictor = Predictor(find_model(model), device=parse_device(device))
    try:
        answer = predictor.predict(video, top_k=top_k)
    except DataError as error:
        raise BadInput(f"video: {error}") from None
    if json:
        typer.echo(answer.model_dump_json(indent=2))
        return
    for item in answer.predictions:
        typer.echo(f"{item.probability:7.2%}  {item.label}")
    for view in answer.views:
        typer.echo(
            f"frames {view.frames[0]} to {view.frames[-1]}, "
            f"{view.seconds[0]:.2f} s to {view.seconds[-1]:.2f} s"
        )
