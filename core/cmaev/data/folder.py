"""An index of a folder that holds one folder of videos per class."""

import csv
import io
import os
from pathlib import Path
from typing import Final

from cmaev.data.errors import DataError
from cmaev_spec.files import write_atomic

VIDEO_SUFFIXES: Final = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"),
    *(".gif", ".3gp", ".ogv"),
)


def index_folder(source: str | Path, *, out: str | Path) -> tuple[int, int]:
    """Writes `path,label` for every video under `source`; its top folder there is its label.

    Paths are written relative to the folder of `out`, so that both can move together.

    Returns:
        How many videos and how many classes there are.

    Raises:
        DataError: if `source` is no folder, holds no videos, or `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    if not source.is_dir():
        raise DataError(f"{source} is not a folder; give one that holds a folder per class")
    if not out.parent.is_dir():
        raise DataError(f"{out.parent} is not a folder; make it first, or choose another --out")
    rows = [
        (os.path.relpath(path, out.parent), path.relative_to(source).parts[0])
        for path in sorted(source.glob("*/**/*"))
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
    ]
    if not rows:
        raise DataError(f"{source} holds no videos in folders; expected {source}/CLASS/VIDEO.mp4")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("path", "label"))
    writer.writerows(rows)
    write_atomic(out, buffer.getvalue())
    return len(rows), len({label for _, label in rows})
