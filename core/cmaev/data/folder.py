"""Folders that hold a folder of videos per class: as an index, and written out as one."""

import os
from pathlib import Path
from typing import Final

from cmaev.data.errors import DataError
from cmaev.data.index_format import write_cells
from cmaev.data.listing import Listing, Row
from cmaev.data.output import local_output
from cmaev.data.storage import find_files
from cmaev_spec.files import write_atomic

VIDEO_SUFFIXES: Final = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"),
    *(".gif", ".3gp", ".ogv"),
)


def read_folder(source: str) -> Listing:
    """Every video below a folder; its top folder there is its label.

    Videos that lie in the folder itself have no label. Hidden files are left out.

    Args:
        source: path or URL of the folder.

    Raises:
        DataError: if it holds no videos.
    """
    paths = sorted(path for path in find_files(source) if _is_video(path))
    if not paths:
        raise DataError(
            f"{source} holds no videos; expected {source}/CLASS/VIDEO.mp4, an index.csv, or .tar "
            "shards"
        )
    return Listing(rows=map(_row, paths), line_word="")


def _is_video(path: str) -> bool:
    hidden = any(part.startswith(".") for part in path.split("/"))
    return not hidden and path.lower().endswith(VIDEO_SUFFIXES)


def _row(path: str) -> Row:
    return Row(0, path, path.partition("/")[0] if "/" in path else "")


def index_folder(source: str | Path, *, out: str | Path) -> tuple[int, int]:
    """Writes `path,label` for every video under `source`; its top folder there is its label.

    Paths are written relative to the folder of `out`, so that both can move together.

    Returns:
        How many videos and how many classes there are.

    Raises:
        DataError: if `source` is no folder, holds no videos in folders, or `out` cannot be written.
    """
    source, out = Path(source), local_output(out)
    if not source.is_dir():
        raise DataError(f"{source} is not a folder; give one that holds a folder per class")
    if not out.parent.is_dir():
        raise DataError(f"{out.parent} is not a folder; make it first, or choose another --out")
    if out.is_dir():
        raise DataError(f"{out} is a folder; give the name of a csv file to --out")
    rows = [row for row in read_folder(str(source)).rows if row.label]
    if not rows:
        raise DataError(f"{source} holds no videos in folders; expected {source}/CLASS/VIDEO.mp4")
    base = os.path.relpath(source, out.parent)
    cells = [(os.path.normpath(os.path.join(base, row.path)), row.label) for row in rows]
    write_atomic(out, write_cells([("path", "label"), *cells]))
    return len(rows), len({row.label for row in rows})
