"""Index files: which videos there are and what they show.

A csv with a header that has `path` and perhaps `label`, or lines of `path label` or `path`. Labels
are names or integers; names become numbers by their place in the sorted list of names.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmaev.data.errors import DataError
from cmaev.data.index_format import Row, read_rows
from cmaev.data.packed import PackedStrings

NO_LABEL: Final = -1
LARGEST_LABEL: Final = 99_999
# From this many rows on, listing a folder once is cheaper than asking for each of its files.
_LIST_FOLDER_FROM: Final = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class VideoIndex:
    """The rows of an index file.

    Attributes:
        source: the index file.
        paths: absolute or working-directory-relative path of each video.
        labels: (rows,) int64, NO_LABEL where there is none.
        label_names: what the numbers mean.
        lines: (rows,) int32, the line of the index file that each row stands on.
    """

    source: str
    paths: Sequence[str]
    labels: NDArray[np.int64]
    label_names: tuple[str, ...]
    lines: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.paths)

    def where(self, row: int) -> str:
        """`file:line` of a row, for messages."""
        return f"{self.source}:{self.lines[row]}"

    def require_labels(self) -> None:
        """Checks that every row has a label.

        Raises:
            DataError: naming the first row that has none.
        """
        missing = np.flatnonzero(self.labels == NO_LABEL)
        if missing.size:
            raise DataError(
                f"{self.where(int(missing[0]))}: {missing.size} of {len(self)} rows have no label; "
                "this job needs `path,label` in every row"
            )


def open_index(
    path: str | Path, *, root: str | Path | None = None, labels: Sequence[str] | None = None
) -> VideoIndex:
    """Reads an index file and checks that its videos exist.

    Args:
        path: the index file.
        root: folder that relative paths start from; the index file's own where None.
        labels: label names in order; those of the index, sorted, where None.

    Raises:
        DataError: naming file, line and the fix, for a missing or empty index, a row that cannot be
            read, a video that is missing, or a label that is unknown or out of range.
    """
    source = Path(path)
    base = str(source.parent if root is None else root)
    rows = read_rows(source, lambda name: os.path.isfile(os.path.join(base, name)))
    paths = [os.path.join(base, row.path) for row in rows]
    _check_files(source, rows, paths)
    numbers, names = _number_labels(source, rows, labels)
    return VideoIndex(
        source=str(source),
        paths=PackedStrings(paths),
        labels=numbers,
        label_names=names,
        lines=np.asarray([row.line for row in rows], dtype=np.int32),
    )


def _check_files(source: Path, rows: Sequence[Row], paths: Sequence[str]) -> None:
    counts = Counter(map(os.path.dirname, paths))
    listed = {folder: _file_names(folder) for folder, n in counts.items() if n >= _LIST_FOLDER_FROM}
    missing = []
    for row, path in zip(rows, paths, strict=True):
        folder, name = os.path.split(path)
        names = listed.get(folder)
        if not (os.path.isfile(path) if names is None else name in names):
            missing.append(f"{source}:{row.line}: there is no file {path}")
    if missing:
        header = "If line 1 is a header, name its columns `path` and `label`. "
        hint = header if any(":1: " in text for text in missing[:1]) else ""
        more = f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(
            f"{len(missing)} of {len(rows)} videos are missing: {'; '.join(missing[:3])}{more}. "
            f"{hint}Correct the rows, or set `root` to the folder that the paths start from"
        )


def _file_names(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def _number_labels(
    source: Path, rows: Sequence[Row], labels: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as numbers, and the names of the numbers."""
    used = sorted({row.label for row in rows} - {""})
    are_numbers = all(_is_number(label) for label in used)
    if labels is not None:
        names = tuple(labels)
    elif are_numbers:
        largest = max((int(label) for label in used), default=NO_LABEL)
        names = tuple(map(str, range(min(largest, LARGEST_LABEL) + 1)))
    else:
        names = tuple(used)
    numbers = {"": NO_LABEL} | {name: k for k, name in enumerate(names)}
    to_number = partial(_number, source, numbers=numbers, names=names)
    return np.asarray([to_number(row) for row in rows], dtype=np.int64), names


def _number(source: Path, row: Row, *, numbers: dict[str, int], names: tuple[str, ...]) -> int:
    known = numbers.get(row.label)
    if known is not None:
        return known
    if _is_number(row.label):
        if NO_LABEL <= int(row.label) < len(names):
            return int(row.label)
        raise DataError(
            f"{source}:{row.line}: label {row.label} is out of range; use 0 to {len(names) - 1}, "
            "or -1 for none"
        )
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    raise DataError(
        f"{source}:{row.line}: unknown label {row.label!r}; use one of {shown}, "
        "or add it to `labels`"
    )


def _is_number(label: str) -> bool:
    return label.lstrip("-").isascii() and label.lstrip("-").isdecimal()
