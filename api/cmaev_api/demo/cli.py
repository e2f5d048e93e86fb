"""The command `cmaev demo`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="folder that keeps everything")] = Path("demo-out"),
    data: Annotated[
        Path | None, typer.Option(help="your own labelled videos: an index of the training videos")
    ] = None,
    val_data: Annotated[
        Path | None, typer.Option(help="index of held-out videos; a fifth of --data by default")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="folder that paths of --data start from")
    ] = None,
    stride: Annotated[int, typer.Option(min=1, help="raw frames between frames of a clip")] = 2,
    pretrain_epochs: Annotated[int | None, typer.Option(min=4, help="pretraining length")] = None,
    finetune_epochs: Annotated[int | None, typer.Option(min=5, help="finetuning length")] = None,
    seed: Annotated[int, typer.Option(help="decides everything that is random")] = 0,
) -> None:
    """Do it all once: pretrain, finetune, export, deploy, classify, and show the results."""
    from cmaev_api.client import ApiError
    from cmaev_api.demo.local import StackFailedError
    from cmaev_api.demo.stages import StageFailedError, run_demo
    from cmaev_api.demo.videos import Choice
    from cmaev_spec.exits import EXIT_FAILED

    choice = Choice(
        data=data,
        val_data=val_data,
        root=root,
        stride=stride,
        pretrain_epochs=pretrain_epochs,
        finetune_epochs=finetune_epochs,
        seed=seed,
    )
    try:
        run_demo(choice, out=out.absolute(), say=typer.echo)
    except (ApiError, StackFailedError, StageFailedError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
