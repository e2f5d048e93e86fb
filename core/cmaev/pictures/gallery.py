"""All pictures of a run: what its model rebuilds and looks at, its losses, its confusions."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cmaev.checkpoints.runs import load_run_model
from cmaev.data.decode.auto import closing_source, open_checked
from cmaev.data.index import open_index
from cmaev.data.rows import RowVideo, open_row
from cmaev.data.sampling import eval_clips
from cmaev.data.storage import is_url, open_remote
from cmaev.data.transforms import center_crop, resize_short_side
from cmaev.engine.checkpoint import newest_checkpoint
from cmaev.engine.events import read_metrics
from cmaev.masking import tube_mask
from cmaev.models import CMAEV
from cmaev.models.frames import FrameNormaliser
from cmaev.pictures.attention import attention_strip
from cmaev.pictures.charts import confusion_chart, loss_curve
from cmaev.pictures.page import Picture, write_page
from cmaev.pictures.reconstruction import reconstruction_strip
from cmaev.pictures.strips import Frames
from cmaev_spec.data import ClipSpec
from cmaev_spec.exits import BadInput
from cmaev_spec.job import FinetuneJob, PretrainJob
from cmaev_spec.rundir import RunDir

PAGE = "pictures.html"


@dataclass(frozen=True)
class ShownVideo:
    """The central clip of a video."""

    path: str
    frames: Frames
    """(T, S, S, 3)"""


def picture_run(run: RunDir, *, videos: Sequence[str] = (), count: int = 4, out: Path) -> Path:
    """Writes every picture that a run has something for, and a page that holds them all.

    Args:
        run: of any kind but export; it may still be running.
        videos: paths or URLs of videos to show; some of the run's own index where empty.
        count: how many of the run's own.
        out: folder of the pictures; made where there is none.

    Returns:
        The page.

    Raises:
        BadInput: if it is no run, there is nothing to draw yet, or a video cannot be read.
    """
    job = run.read_job()
    pictures = [*_charts(run, out, title=job.kind)]
    notes = [f"{job.kind} run {run.path}"]
    if isinstance(job, PretrainJob | FinetuneJob):
        checkpoint = newest_checkpoint(run)
        if checkpoint is None:
            notes.append("no complete checkpoint yet, so no reconstructions and no attention")
        else:
            notes.append(f"{job.model.name}, {checkpoint.name}")
            shown = _given(videos, job.data.clip) if videos else _own(job, count)
            pictures += _model_pictures(run, job, shown, out)
    elif videos:
        raise BadInput(f"--videos: a {job.kind} run has no model of its own to show them to")
    if not pictures:
        raise BadInput(f"{run.path} has nothing to draw yet: no metrics, checkpoint or confusions")
    figures = json.loads(run.summary.read_text()) if run.summary.is_file() else {}
    page = out / PAGE
    write_page(page, title=run.path.name, notes=notes, figures=figures, pictures=pictures)
    return page


def _charts(run: RunDir, out: Path, *, title: str) -> Iterator[Picture]:
    rows = read_metrics(run.metrics)
    if rows:
        path = out / "loss.png"
        loss_curve(rows, path, title=title)
        yield Picture(path, "losses")
    for table in sorted(run.path.glob("confusion*.csv")):
        with open(table, newline="", encoding="utf-8") as file:
            (_, *labels), *lines = csv.reader(file)
        counts = np.array([[int(count) for count in line[1:]] for line in lines])
        path = out / f"{table.stem}.png"
        confusion_chart(counts, path, labels=labels)
        yield Picture(path, f"{table.stem}: true classes in rows, predicted ones in columns")


def _model_pictures(
    run: RunDir, job: PretrainJob | FinetuneJob, shown: Sequence[ShownVideo], out: Path
) -> Iterator[Picture]:
    model = load_run_model(run)
    normalise = FrameNormaliser()
    for number, video in enumerate(shown, start=1):
        clip = normalise(torch.from_numpy(video.frames)[None])  # (1, C, T, H, W)
        if isinstance(model, CMAEV):
            assert isinstance(job, PretrainJob)
            rng = np.random.default_rng([job.seed, number])
            mask = tube_mask(model.encoder.grid, job.objective.mask_ratio, rng)  # True = hidden
            path = out / f"video-{number}-reconstruction.png"
            reconstruction_strip(model, clip, torch.from_numpy(mask)[None], path)
            yield Picture(path, f"{video.path}: original, masked, rebuilt")
        path = out / f"video-{number}-attention.png"
        attention_strip(model.encoder, clip, video.frames, path)
        yield Picture(path, f"{video.path}: attention that each tubelet receives, last block")


def _given(videos: Sequence[str], clip: ClipSpec) -> list[ShownVideo]:
    shown = []
    for path in videos:
        try:
            source = open_remote(path) if is_url(path) else Path(path)
            with (
                closing_source(source) as opened,
                open_checked(opened, verified=None) as video,
            ):
                shown.append(ShownVideo(path, _central_clip(RowVideo(video, None), clip)))
        except BadInput as error:
            raise BadInput(f"--videos: {path}: {error}") from None
    return shown


def _own(job: PretrainJob | FinetuneJob, count: int) -> list[ShownVideo]:
    """Videos from the whole length of the index: the one it is measured on, where it has one."""
    source = job.data.val_index if isinstance(job, FinetuneJob) else job.data.index
    index = open_index(source, root=job.data.root)
    rows = np.unique(np.linspace(0, len(index) - 1, min(count, len(index))).round().astype(int))
    shown = []
    for row in rows.tolist():
        with open_row(index, row) as video:
            shown.append(ShownVideo(index.paths[row], _central_clip(video, job.data.clip)))
    return shown


def _central_clip(video: RowVideo, clip: ClipSpec) -> Frames:
    numbers = eval_clips(video.num_frames, clip, num_clips=1)[0]  # (T,)
    unique, places = np.unique(numbers, return_inverse=True)
    frames = resize_short_side(video.decode(unique), clip.size)  # (U, H, W, 3)
    return center_crop(frames, clip.size)[places]  # (T, S, S, 3)
