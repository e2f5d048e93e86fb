"""Indexes: which videos there are and what they show.

`open_index` reads every form: text and csv (`index_format`), VideoMAE v2's lists (`frame_lists`),
Something-Something V2's json (`something`), a folder per class (`folder`), and shards (`shards`).
Labels are names or integers; names become numbers by their place in the sorted list of names.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmaev.data.errors import DataError
from cmaev.data.frame_folder import FrameFolder, VideoSource
from cmaev.data.index_table import Places, number_rows, shard_of
from cmaev.data.labels import NO_LABEL
from cmaev.data.open_table import open_table
from cmaev.data.packed import PackedStrings
from cmaev.data.storage import is_url, open_remote, read_bytes, size_and_time
from cmaev.data.table import Table


@dataclass(frozen=True)
class Verified:
    """What `cmaev data check` found out about a file; it holds while size and time are the same.

    Attributes:
        frames: how many can be decoded.
        decoder: the fast backend whose frames equal the reference; empty if none does.
        bytes: size of the file.
        mtime_ns: time of its last change, as in `os.stat`; -1 for a member of a shard.
    """

    frames: int
    decoder: str
    bytes: int
    mtime_ns: int


class VideoIndex:
    """The rows of an index. Cheap to send to a process, which maps the rows instead of copying.

    Attributes:
        source: the index.
        paths: absolute or working-directory-relative path, or URL, of each video.
        label_names: what the numbers of `labels` mean.
    """

    def __init__(self, table: Table, *, labels: Sequence[str] | None = None) -> None:
        """Looks into a table.

        Args:
            table: columns that `index_table.build_table` made.
            labels: label names in order; those of the index where None.

        Raises:
            DataError: naming the first row with a label that is not among `labels`.
        """
        self._table = table
        self.source: str = table.notes["source"]
        self.paths: PackedStrings = table.strings("paths")
        self.where = Places(table.notes, table["lines"])
        own = tuple(table.notes["label_names"])
        self.label_names = own if labels is None else tuple(labels)
        self._labels: NDArray[np.int64] = table["labels"]
        if self.label_names != own:
            self._labels = number_rows(self._labels, own, self.label_names, self.where)

    def __len__(self) -> int:
        return len(self.paths)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._table, self.label_names)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(rows,), NO_LABEL where there is none."""
        return self._labels

    def label_name(self, row: int) -> str:
        """The label of a row; empty where it has none."""
        label = int(self.labels[row])
        return "" if label == NO_LABEL else self.label_names[label]

    @property
    def lines(self) -> NDArray[np.int32]:
        """(rows,), the line of the index that each row stands on."""
        return self._table["lines"]

    def require_labels(self) -> None:
        """Checks that every row has a label.

        Raises:
            DataError: naming the first row that has none.
        """
        missing = np.flatnonzero(self.labels == NO_LABEL)
        if missing.size:
            raise DataError(
                f"{self.where(int(missing[0]))}: {missing.size} of {len(self)} rows have no label "
                "(an empty one, or -1); this job needs `path,label` in every row"
            )

    def open_source(self, row: int) -> VideoSource:
        """Where the video of a row is read from.

        A local video is a path, raw frames a `FrameFolder`, a member of a shard its bytes, and a
        video behind a URL a seekable file, to be closed by the caller.

        Raises:
            DataError: if it cannot be reached.
        """
        path, table = self.paths[row], self._table
        if "offset" in table:
            shard = shard_of(path)
            return read_bytes(shard, start=int(table["offset"][row]), size=int(table["bytes"][row]))
        frames = table.notes.get("frames")
        if frames is not None and table["total"][row] >= 0:
            start, total = int(table["start"][row]), int(table["total"][row])
            return FrameFolder(Path(path), frames["template"], start, total)
        return open_remote(path) if is_url(path) else Path(path)

    def stamp(self, row: int) -> tuple[int, int]:
        """(bytes, mtime_ns) of a row's video, by which a change is noticed; -1 where unknown.

        Raises:
            DataError: if there is no such video.
        """
        path, table = self.paths[row], self._table
        return (int(table["bytes"][row]), -1) if "offset" in table else size_and_time(path)

    def segment(self, row: int) -> tuple[int, int] | None:
        """(start, total) of the frames that a row means; None for the whole of its video.

        Raw frames have none: their `FrameFolder` begins and ends where the row does.
        """
        table = self._table
        if "total" not in table or "frames" in table.notes or table["total"][row] < 0:
            return None
        return int(table["start"][row]), int(table["total"][row])

    def numbers(self, row: int) -> dict[str, int]:
        """Which part of its file a row means, by the names of the columns of an index file."""
        table = self._table
        names = ["offset", "bytes"] if "offset" in table else []
        names += ["start", "total"] if "total" in table else []
        return {name: int(table[name][row]) for name in names}

    @property
    def num_verified(self) -> int:
        """Rows that `cmaev data check` wrote about."""
        return int((self._table["frames"] >= 0).sum()) if "frames" in self._table else 0

    def verified(self, row: int) -> Verified | None:
        """What `cmaev data check` wrote about a row; None if it wrote nothing."""
        table = self._table
        if "frames" not in table or table["frames"][row] < 0:
            return None
        return Verified(
            frames=int(table["frames"][row]),
            decoder=table.notes["decoders"][table["decoder"][row]],
            bytes=int(table["bytes"][row]),
            mtime_ns=int(table["mtime_ns"][row]),
        )


def open_index(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    field: str | None = None,
) -> VideoIndex:
    """Opens an index and checks that its videos exist.

    Args:
        path: an index file, a folder of a folder per class, or shards; local or an fsspec URL.
        root: folder or URL that relative paths start from; the index file's own where None.
        labels: label names in order; those of the index where None.
        field: what named it, for messages.

    Raises:
        DataError: naming field, file, line and the fix, for a missing or empty index, a row that
            cannot be read, a video that is missing or has two labels, or a label that is unknown or
            out of range.
    """
    try:
        return VideoIndex(open_table(path, root=root), labels=labels)
    except DataError as error:
        if field is None:
            raise
        raise DataError(f"{field}: {error}") from None


def _reopen(table: Table, labels: tuple[str, ...]) -> VideoIndex:
    return VideoIndex(table, labels=labels)
