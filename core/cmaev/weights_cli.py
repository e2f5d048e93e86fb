"""`cmaev weights`: look into weights of others, and write our own for others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from torch import nn

    from cmaev.checkpoints.overview import Overview
    from cmaev.checkpoints.report import LoadReport

weights_app = typer.Typer(no_args_is_help=True, help="Weights from and for other projects.")

Task = Literal["pretrain", "finetune"]
Format = Literal["huggingface", "videomae"]


def register(app: typer.Typer) -> None:
    """Adds the `weights` commands to the root command."""
    app.add_typer(weights_app, name="weights")


@weights_app.command("show")
def show(
    source: Annotated[
        str,
        typer.Argument(
            help="A run or job:<id>, a .pth or .safetensors file, or a Hugging Face folder."
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="A model to compare with; default: find those that fit.")
    ] = None,
    task: Annotated[Task, typer.Option(help="What the model is built for.")] = "finetune",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole account.")] = False,
) -> None:
    """Say what weights are, which models they fit and what of them would be loaded."""
    from cmaev.checkpoints.load import preview
    from cmaev.checkpoints.overview import overview

    if model is None:
        account: Overview | LoadReport = overview(source)
    else:
        account = preview(_model_without_memory(model, task, source), source)
    typer.echo(account.to_json() if as_json else "\n".join(account.lines()))
    for text in account.warnings:
        typer.echo(f"warning: {text}", err=True)


@weights_app.command("export")
def export(
    run: Annotated[str, typer.Argument(help="A pretrain or finetune run, or job:<id>.")],
    out: Annotated[
        Path, typer.Option(help="New folder (huggingface) or new .pth file (videomae).")
    ],
    to: Annotated[Format, typer.Option("--format", help="Whose names and layout.")] = "huggingface",
) -> None:
    """Write the weights of a ViT run so that transformers or VideoMAE's scripts load them."""
    from cmaev.checkpoints import export_huggingface, export_videomae
    from cmaev.checkpoints.runs import load_run_model
    from cmaev_spec.rundir import resolve_run

    source = resolve_run(run)
    model = load_run_model(source)
    if to == "huggingface":
        export_huggingface(model, out, labels=source.read_labels())
    else:
        export_videomae(model, out)
    typer.echo(f"{to}  {out}")


def _model_without_memory(name: str, task: Task, source: str) -> "nn.Module":
    from cmaev.checkpoints.overview import without_memory
    from cmaev.checkpoints.sources import open_source
    from cmaev_spec.exits import BadInput

    weights = open_source(source)
    try:
        return without_memory(name, weights, pretraining=task == "pretrain")
    except ValueError as error:
        raise BadInput(f"model: {error}") from None
