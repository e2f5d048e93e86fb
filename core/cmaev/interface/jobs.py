"""`pretrain` and `finetune`: jobs on lists of files, run to their end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from cmaev.interface.run import Run
from cmaev.interface.start import (
    Out,
    build_job,
    check_source,
    out_folder,
    read_preset,
    run_job,
    source_location,
)
from cmaev.interface.videos import IndexFile, Labels, Videos, index_file, index_pair
from cmaev_spec.exits import BadInput
from cmaev_spec.overrides import FinetuneOverrides, PretrainOverrides


def pretrain(
    videos: Videos,
    *,
    out: Out,
    preset: str = "nano-pretrain",
    source: Run | Out | None = None,
    progress: bool = True,
    allow_changes: bool = False,
    **overrides: Unpack[PretrainOverrides],
) -> Run:
    """Pretrains CMAE-V on unlabelled videos. The same call again goes on where it ended.

    Args:
        videos: paths or URLs of videos, or the place of an index in any form.
        out: folder of the run.
        preset: one of `list_presets()`, which the overrides change.
        source: a run, or weights, to go on from; None: at random.
        progress: show what the run prints; False: append it to `log.txt` of the run.
        allow_changes: go on with a run whose job was another, as `cmaev train --allow-changes`.
        **overrides: fields of the job by their last names, e.g. `epochs=100, mask_ratio=0.75`.

    Raises:
        BadInput: naming the argument or the video that cannot be used.
        TypeError: for an override that there is not.
        KeyboardInterrupt: when a checkpoint has been saved.
        RunStopped: if somebody else stopped it, when a checkpoint has been saved.
        RunFailed: for any other end before the last step.
    """
    data = read_preset(preset, kind="pretrain")
    folder = out_folder(out)
    index = index_file(videos, folder=folder / "index", stem="train", needs_labels=False)
    sections = {"data": {"index": index.path}}
    return _train(
        data,
        sections,
        {**overrides},
        source,
        out=folder,
        indexes=(index,),
        show=progress,
        allow_changes=allow_changes,
    )


def finetune(
    videos: Videos,
    labels: Labels | None = None,
    *,
    out: Out,
    val_videos: Videos | None = None,
    val_labels: Labels | None = None,
    val_share: float = 0.2,
    preset: str = "nano-finetune",
    source: Run | Out | None = None,
    progress: bool = True,
    allow_changes: bool = False,
    **overrides: Unpack[FinetuneOverrides],
) -> Run:
    """Trains a classifier and measures it on other videos. The same call again goes on.

    Args:
        videos: paths or URLs of videos, or the place of an index in any form.
        labels: a name or a number for each video of a list; an index holds its own.
        out: folder of the run.
        val_videos: what the result is measured on; None: a part of `videos`.
        val_labels: their labels, where they are a list.
        val_share: how much of the videos of each label that part is.
        preset: one of `list_presets()`, which the overrides change.
        source: a pretrained run, or weights; None: from scratch.
        progress: show what the run prints; False: append it to `log.txt` of the run.
        allow_changes: go on with a run whose job was another, as `cmaev train --allow-changes`.
        **overrides: fields of the job by their last names, e.g. `epochs=50, mixup=0.8`.

    Raises:
        BadInput: naming the argument or the video that cannot be used.
        TypeError: for an override that there is not.
        KeyboardInterrupt: when a checkpoint has been saved.
        RunStopped: if somebody else stopped it, when a checkpoint has been saved.
        RunFailed: for any other end before the last step.
    """
    if val_videos is None and val_labels is not None:
        raise BadInput("val_labels: they have no val_videos")
    data = read_preset(preset, kind="finetune")
    folder = out_folder(out)
    train, val = index_pair(
        (videos, labels),
        None if val_videos is None else (val_videos, val_labels),
        folder=folder / "index",
        val_share=val_share,
        seed=overrides.get("seed", 0),
        label_names=overrides.get("label_names"),
        root=overrides.get("root"),
    )
    sections = {"data": {"index": train.path, "val_index": val.path}}
    return _train(
        data,
        sections,
        {**overrides},
        source,
        out=folder,
        indexes=(train, val),
        show=progress,
        allow_changes=allow_changes,
    )


def _train(
    preset: dict[str, Any],
    sections: dict[str, Any],
    overrides: dict[str, object],
    source: Run | Out | None,
    *,
    out: Path,
    indexes: Sequence[IndexFile],
    show: bool,
    allow_changes: bool,
) -> Run:
    init = None
    if source is not None:
        init = str(source.path) if isinstance(source, Run) else source_location(source)
    job = build_job(preset, {**sections, "init": init}, overrides)
    if init is not None:
        check_source(init, job)
    run_job(job, out=out, indexes=indexes, progress=show, allow_changes=allow_changes)
    return Run(out)
