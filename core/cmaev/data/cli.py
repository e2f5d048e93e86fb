"""`cmaev data …`: commands that make videos and indexes."""

from pathlib import Path
from typing import Annotated

import typer

from cmaev_spec.exits import EXIT_BAD_INPUT


def register(app: typer.Typer) -> None:
    """Adds the commands to the `data` group."""
    app.command("synth")(synth)
    app.command("index")(index)
    app.command("split")(split)
    app.command("prepare")(prepare)
    app.command("shard")(shard)
    app.command("check")(check)


def synth(
    out: Annotated[Path, typer.Argument(help="folder to make")],
    classes: Annotated[int, typer.Option(help="2, 4, 6 or 8: pairs of opposite motions")] = 8,
    per_class: Annotated[int, typer.Option(help="training videos of each class")] = 40,
    val_per_class: Annotated[int, typer.Option(help="held-out videos of each class")] = 25,
    seed: Annotated[int, typer.Option(help="decides everything that is random")] = 0,
) -> None:
    """Make small videos whose class is told by motion alone, with train.csv and val.csv."""
    from cmaev.data.synth import synthesise
    from cmaev.engine.progress import ProgressDisplay

    with ProgressDisplay("videos", total=classes * (per_class + val_per_class)) as display:
        made = synthesise(
            out,
            classes=classes,
            per_class=per_class,
            val_per_class=val_per_class,
            seed=seed,
            progress=lambda done, _total: display.update(done),
        )
    state = "made" if made.created else "already there:"
    typer.echo(f"{state} {made.videos} videos; indexes {made.train} and {made.val}")


def index(
    source: Annotated[Path, typer.Argument(help="folder that holds a folder of videos per class")],
    out: Annotated[Path, typer.Option(help="csv file to write")],
) -> None:
    """Write an index of a folder that holds one folder of videos per class."""
    from cmaev.data.folder import index_folder

    videos, classes = index_folder(source, out=out)
    typer.echo(f"{videos} videos of {classes} classes; index {out}")


def split(
    source: Annotated[str, typer.Argument(metavar="INDEX", help="index with labels")],
    out: Annotated[Path, typer.Option(help="folder for train.csv and val.csv")],
    val_share: Annotated[float, typer.Option(help="share of each label to hold out")] = 0.2,
    seed: Annotated[int, typer.Option(help="decides which videos are held out")] = 0,
    root: Annotated[str | None, typer.Option(help="where relative paths start from")] = None,
) -> None:
    """Hold out a share of an index; split sets with many clips per recording by hand."""
    from cmaev.data.split import split_index

    train, val = split_index(source, out=out, val_share=val_share, seed=seed, root=root)
    typer.echo(f"{train} videos in {out / 'train.csv'}, {val} in {out / 'val.csv'}")


def prepare(
    source: Annotated[str, typer.Argument(metavar="INDEX", help="index, local or a URL")],
    out: Annotated[Path, typer.Argument(help="folder for the videos and their index.csv")],
    size: Annotated[int, typer.Option(min=16, help="short side of the frames in pixels")] = 256,
    gop: Annotated[int, typer.Option(min=1, help="frames from one key frame to the next")] = 12,
    rate: Annotated[
        float | None, typer.Option(min=1, max=240, help="frames per second; each video's own")
    ] = None,
    crf: Annotated[int, typer.Option(min=0, max=51, help="H.264 quality, less is better")] = 18,
    workers: Annotated[
        int | None, typer.Option(min=1, help="videos at once; as many as processors by default")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="most seconds for one video")] = 1800,
    memory: Annotated[int, typer.Option(min=64, help="most MiB for one video")] = 2048,
    root: Annotated[str | None, typer.Option(help="where relative paths start from")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the summary as JSON")] = False,
) -> None:
    """Encode videos small and easy to read, and write an index of them.

    Run it again to go on, or to encode what is new or changed. Exits with 64 if videos cannot be
    used; quarantine.csv says why.
    """
    import os

    from cmaev.data.encode import EncodeOptions
    from cmaev.data.index import open_index
    from cmaev.data.prepare import PrepareOptions, count_videos, prepare_index
    from cmaev.engine.progress import ProgressDisplay

    index = open_index(source, root=root)
    options = PrepareOptions(
        encode=EncodeOptions(short_side=size, gop=gop, rate=rate, crf=crf),
        workers=workers or len(os.sched_getaffinity(0)),
        seconds=timeout,
        memory=memory << 20,
    )
    total = count_videos(index)
    with ProgressDisplay("videos", total=total, enabled=not as_json) as display:
        report = prepare_index(
            index, out=out, options=options, progress=lambda done, _total: display.update(done)
        )
    typer.echo(report.to_json() if as_json else report.to_text())
    if report.quarantined:
        raise typer.Exit(EXIT_BAD_INPUT)


def shard(
    source: Annotated[str, typer.Argument(metavar="INDEX", help="index, local or a URL")],
    out: Annotated[Path, typer.Argument(help="local folder for the shards and their index.csv")],
    videos_per_shard: Annotated[
        int | None, typer.Option(min=1, help="videos in a shard; instead of --shard-size")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="largest shard in MB")] = 1000,
    root: Annotated[str | None, typer.Option(help="where relative paths start from")] = None,
) -> None:
    """Pack the videos of an index into tar files for object stores; run it again to go on."""
    from cmaev.data.index import open_index
    from cmaev.data.shard_write import write_shards
    from cmaev.engine.progress import ProgressDisplay

    index = open_index(source, root=root)
    with ProgressDisplay("videos", total=len(index)) as display:
        count = write_shards(
            index,
            out,
            videos_per_shard=videos_per_shard,
            shard_bytes=shard_size * 1_000_000,
            progress=display.update,
        )
    typer.echo(f"{len(index)} videos in {count} shards; index {out / 'index.csv'}")


def check(
    source: Annotated[str, typer.Argument(metavar="INDEX", help="index, local or a URL")],
    out: Annotated[
        Path | None, typer.Option(help="folder for verified.csv; INDEX-checked by default")
    ] = None,
    root: Annotated[str | None, typer.Option(help="where relative paths start from")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="videos at once; as many as processors by default")
    ] = None,
    decoder: Annotated[
        str, typer.Option(help="fast decoder to hold against the reference")
    ] = "pyav-seek",
    timeout: Annotated[float, typer.Option(min=1, help="most seconds for one video")] = 300,
    memory: Annotated[int, typer.Option(min=64, help="most MiB for one video")] = 2048,
    as_json: Annotated[bool, typer.Option("--json", help="the summary as JSON")] = False,
) -> None:
    """Decode every video in full and tell which can be used, and which by the fast decoder.

    Run it again to go on, or to look at what is new or changed. Exits with 64 if videos cannot be
    used; train on verified.csv, which leaves them out.
    """
    import os

    from cmaev.data.check import CheckOptions, check_index, default_folder, distinct_videos
    from cmaev.data.index import open_index
    from cmaev.engine.progress import ProgressDisplay

    options = CheckOptions(
        decoder=decoder,
        workers=workers or len(os.sched_getaffinity(0)),
        seconds=timeout,
        memory=memory << 20,
    )
    index = open_index(source, root=root)
    folder = out or default_folder(source)
    total = len(distinct_videos(index))
    with ProgressDisplay("videos", total=total, enabled=not as_json) as display:
        report = check_index(
            index, out=folder, options=options, progress=lambda done, _total: display.update(done)
        )
    typer.echo(report.to_json() if as_json else report.to_text())
    if report.quarantined:
        raise typer.Exit(EXIT_BAD_INPUT)
