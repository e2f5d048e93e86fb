"""Lists of videos and labels as an index, by the rules that index files are held to."""

import os
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from numbers import Integral
from pathlib import Path
from typing import TypeAlias, TypeGuard

import numpy as np

from cmaev.data.errors import DataError
from cmaev.data.folder import VIDEO_SUFFIXES
from cmaev.data.index import VideoIndex, open_index
from cmaev.data.index_table import build_table, check_files, check_labels_agree
from cmaev.data.index_write import index_text
from cmaev.data.labels import has_no_label
from cmaev.data.listing import Listing, Row
from cmaev.data.split import hold_out
from cmaev.data.storage import Root, is_url, local_or_url
from cmaev.data.table import Table
from cmaev_spec.files import write_atomic

Location: TypeAlias = str | os.PathLike[str]
Videos: TypeAlias = Location | Iterable[Location]
"""Paths or URLs of videos; or where an index is, in any form that `cmaev train` takes."""
Labels: TypeAlias = Iterable[str | int]
Names: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class IndexFile:
    """An index that a job names.

    Attributes:
        path: where it is, or will be.
        text: what is still to be written there; None for an index of the user.
        label_names: its labels in order, where they are known by now.
    """

    path: str
    text: str | None = None
    label_names: tuple[str, ...] | None = None

    @classmethod
    def of_rows(
        cls, index: VideoIndex, rows: Iterable[int], *, folder: Path, stem: str
    ) -> "IndexFile":
        """A file in `folder`, named after its text: a job with other videos is another job."""
        text = index_text(index, rows)
        name = f"{stem}-{sha256(text.encode()).hexdigest()[:12]}.csv"
        return cls(str(folder.absolute() / name), text, index.label_names)

    def write(self) -> None:
        """Writes what is still to be written."""
        path = Path(self.path)
        if self.text is not None and not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, self.text)


def index_file(
    videos: Videos,
    labels: Labels | None = None,
    *,
    folder: Path,
    stem: str,
    needs_labels: bool = True,
    names: Names = ("videos", "labels"),
    label_names: Sequence[str] | None = None,
) -> IndexFile:
    """The user's index as it is, or a list of videos as an index in `folder`.

    Args:
        videos: paths, URLs, or the place of an index.
        labels: one for each video of a list; an index has its own.
        folder: for the file.
        stem: what its name begins with.
        needs_labels: whether a list without labels is refused.
        names: what the caller calls the two, for messages.
        label_names: all labels in order; those that occur, sorted, where None.

    Raises:
        DataError: naming the argument and the item that cannot be used.
    """
    if is_index(videos, name=names[0]):
        _refuse_labels(labels, names)
        return IndexFile(index_location(videos))
    index = list_videos(
        videos, labels, needs_labels=needs_labels, names=names, label_names=label_names
    )
    return IndexFile.of_rows(index, range(len(index)), folder=folder, stem=stem)


def index_pair(
    train: tuple[Videos, Labels | None],
    val: tuple[Videos, Labels | None] | None,
    *,
    folder: Path,
    val_share: float,
    seed: int,
    label_names: Sequence[str] | None = None,
    root: str | None = None,
) -> tuple[IndexFile, IndexFile]:
    """What a job trains on and what it is measured on, both with labels.

    Args:
        train: videos and labels.
        val: videos and labels; None: a share of each label of `train`.
        folder: for the files.
        val_share: that share.
        seed: decides which videos it is.
        label_names: all labels in order; those that occur, sorted, where None.
        root: where relative paths start from; the index or the working directory where None.

    Raises:
        DataError: naming the argument and the item that cannot be used.
    """
    if val is not None:
        first = index_file(*train, folder=folder, stem="train", label_names=label_names)
        names = ("val_videos", "val_labels")
        known = first.label_names
        return first, index_file(*val, folder=folder, stem="val", names=names, label_names=known)
    index = list_videos(
        *train, needs_labels=not is_index(train[0]), label_names=label_names, root=root
    )
    held_out = hold_out(index, val_share=val_share, seed=seed)
    rows = (np.flatnonzero(side).tolist() for side in (~held_out, held_out))
    files = (
        IndexFile.of_rows(index, part, folder=folder, stem=stem)
        for part, stem in zip(rows, ("train", "val"), strict=True)
    )
    return next(files), next(files)


def location(value: object, *, name: str) -> str:
    """A path or a URL as text.

    Args:
        value: what the caller gave.
        name: the argument, for messages.

    Raises:
        DataError: if it is something else, or empty, which would be the working directory.
    """
    if not isinstance(value, str | os.PathLike):
        raise DataError(f"{name}: {reprlib.repr(value)} is no path; give a string or a Path")
    text = local_or_url(value)
    if not text:
        raise DataError(f"{name}: is empty; give a path")
    return text


def is_index(videos: object, *, name: str = "videos") -> TypeGuard[Location]:
    """Whether `videos` says where an index is, and is no list.

    Raises:
        DataError: if it is neither, or is the path of one video.
    """
    if not isinstance(videos, str | os.PathLike):
        if not isinstance(videos, Iterable):
            given = reprlib.repr(videos)
            raise DataError(f"{name}: {given} is no list of videos, and no path of an index")
        return False
    text = location(videos, name=name)
    if text.lower().endswith(VIDEO_SUFFIXES):
        raise DataError(f"{name}: {text} is one video; give a list of videos, or an index")
    return True


def index_location(videos: Location) -> str:
    """An index as a job names it: the same from any working directory."""
    location = local_or_url(videos)
    return location if is_url(location) else os.path.abspath(location)


def list_videos(
    videos: Videos,
    labels: Labels | None = None,
    *,
    needs_labels: bool = False,
    names: Names = ("videos", "labels"),
    label_names: Sequence[str] | None = None,
    root: str | None = None,
) -> VideoIndex:
    """The rows of a list of videos, or of the index that `videos` is; see `index_file`.

    Raises:
        DataError: naming the argument and the item that cannot be used.
    """
    if is_index(videos, name=names[0]):
        _refuse_labels(labels, names)
        return open_index(index_location(videos), root=root, labels=label_names, field=names[0])
    assert not isinstance(videos, str | os.PathLike)
    paths = [location(video, name=f"{names[0]}: item {item}") for item, video in enumerate(videos)]
    if not paths:
        raise DataError(f"{names[0]}: the list is empty; give at least one video")
    texts = _label_texts(labels, count=len(paths), names=names, needed=needs_labels)
    rows = [Row(item, path, texts[item]) for item, path in enumerate(paths)]
    listing = Listing(rows=rows, line_word="item")
    table = Table.hold(build_table(names[0], listing, Root(root or os.getcwd())))
    check_labels_agree(table)
    check_files(table)
    return VideoIndex(table, labels=label_names)


def _refuse_labels(labels: Labels | None, names: Names) -> None:
    if labels is not None:
        raise DataError(f"{names[1]}: leave them out; {names[0]} is an index, which holds its own")


def _label_texts(labels: Labels | None, *, count: int, names: Names, needed: bool) -> list[str]:
    """The labels as an index file would have them; empty where there are none."""
    if labels is None:
        if needed:
            raise DataError(f"{names[1]}: give one for each of {names[0]}, in the same order")
        return [""] * count
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise DataError(f"{names[1]}: {reprlib.repr(labels)} is no list; give one for each video")
    given = list(labels)
    if len(given) != count:
        raise DataError(
            f"{names[1]}: there are {len(given)}, for {count} {names[0]}; give one for each"
        )
    for item, label in enumerate(given):
        kind_known = isinstance(label, str | Integral) and not isinstance(label, bool)
        if not kind_known or has_no_label(str(label).strip()):
            raise DataError(
                f"{names[1]}: item {item} is {label!r}; give a name, or a number from 0 on"
            )
    return [str(label).strip() for label in given]
