"""Holding out a share of the videos of an index, label by label."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmaev.data.errors import DataError
from cmaev.data.index import VideoIndex, open_index
from cmaev.data.index_write import index_text
from cmaev.data.output import local_output
from cmaev_spec.files import write_atomic


def split_index(
    source: str | Path,
    *,
    out: str | Path,
    val_share: float = 0.2,
    seed: int = 0,
    root: str | Path | None = None,
) -> tuple[int, int]:
    """Writes OUT/train.csv and OUT/val.csv with absolute paths.

    Each label gives `val_share` of its videos, at least one, to the held-out side. Videos that were
    cut from one recording may end up on both sides: split such sets by hand.

    Returns:
        How many videos are on either side.

    Raises:
        DataError: for a share out of range, an index without labels, or a label with one video.
    """
    folder = local_output(out)
    index = open_index(source, root=root)
    held_out = hold_out(index, val_share=val_share, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    for path, rows in (("train.csv", ~held_out), ("val.csv", held_out)):
        write_atomic(folder / path, index_text(index, np.flatnonzero(rows).tolist()))
    return int((~held_out).sum()), int(held_out.sum())


def hold_out(index: VideoIndex, *, val_share: float, seed: int) -> NDArray[np.bool_]:
    """(rows,), True where a row is held out: a share of the videos of each label, at least one.

    Raises:
        DataError: for a share out of range, an index without labels, or a label with one video.
    """
    if not 0 < val_share < 1:
        raise DataError(f"val_share: {val_share} is not between 0 and 1")
    index.require_labels()
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(index), dtype=np.bool_)
    video = _video_of_each_row(index)
    for number, name in enumerate(index.label_names):
        videos = np.unique(video[index.labels == number])
        if len(videos) == 1:
            raise DataError(
                f"{index.source}: label {name!r} has one video; two are the least to split"
            )
        if len(videos):
            chosen = rng.permutation(videos)[: max(1, round(val_share * len(videos)))]
            held_out |= np.isin(video, chosen)
    return held_out


def _video_of_each_row(index: VideoIndex) -> NDArray[np.int64]:
    """(rows,), the first row of the same video, all of whose rows and parts stay on one side."""
    first: dict[tuple[str, int | None], int] = {}
    keys = ((index.paths[row], index.numbers(row).get("offset")) for row in range(len(index)))
    return np.asarray([first.setdefault(key, row) for row, key in enumerate(keys)], dtype=np.int64)
