"""The clips of the task and their folds, as indexes that jobs read.

A fold is some recording sessions; a test fold is never trained on, with labels or without.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FOLDS = (0, 1, 2, 3)
LABELS = ("falling", "liedown", "sitdown", "standup", "walk")


@dataclass(frozen=True)
class Clip:
    """A row of the manifest."""

    path: str
    label: str
    group: str
    """The recording session: clips of one are not independent of each other."""
    fold: int
    labelled: bool
    """Whether it belongs to the task; the others serve for pretraining alone."""


def read_clips(data: Path) -> list[Clip]:
    """The rows of `manifest.csv`.

    Raises:
        SystemExit: if there is none.
    """
    manifest = data / "manifest.csv"
    if not manifest.is_file():
        raise SystemExit(f"--data: {manifest} is missing; name the folder of the ceiling clips")
    with manifest.open(newline="") as file:
        return [
            Clip(
                path=row["path"],
                label=row["label"],
                group=row["group"],
                fold=int(row["fold"]),
                labelled=row["motion5"] == "1",
            )
            for row in csv.DictReader(file)
        ]


def write_indexes(clips: Iterable[Clip], folder: Path, *, every: int = 1) -> None:
    """Writes `unlabelled-F.csv` and `labelled-F.csv` for each set of folds F that jobs name.

    Args:
        clips: all of them.
        folder: where to.
        every: keep one of so many clips of each label, to try the study in small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = _thinned(sorted(clips, key=lambda clip: (clip.label, clip.path)), every=every)
    for folds in _subsets():
        inside = [clip for clip in kept if clip.fold in folds]
        _write(index(folder, folds, labelled=False), inside)
        _write(index(folder, folds, labelled=True), [clip for clip in inside if clip.labelled])


def index(folder: Path, folds: Iterable[int], *, labelled: bool) -> Path:
    """The index of the clips of some folds."""
    name = "".join(map(str, sorted(folds)))
    return folder / f"{'labelled' if labelled else 'unlabelled'}-{name}.csv"


def _subsets() -> list[tuple[int, ...]]:
    """One, two, three and all of the folds."""
    masks = range(1, 2 ** len(FOLDS))
    return [tuple(fold for fold in FOLDS if mask >> fold & 1) for mask in masks]


def _thinned(clips: list[Clip], *, every: int) -> list[Clip]:
    seen: dict[tuple[str, int], int] = {}
    kept = []
    for clip in clips:
        key = clip.label, clip.fold
        seen[key] = seen.get(key, 0) + 1
        if seen[key] % every == 1 or every == 1:
            kept.append(clip)
    return kept


def _write(path: Path, clips: list[Clip]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label"])
        writer.writerows((clip.path, clip.label) for clip in clips)
