"""Rows of an index as the text of another one, which says the same about each video."""

import os
from collections.abc import Iterable, Mapping

from cmaev.data.index import Verified, VideoIndex
from cmaev.data.index_format import VERIFIED, write_cells
from cmaev.data.storage import is_url


def index_text(
    index: VideoIndex, rows: Iterable[int], *, found: Mapping[int, Verified] | None = None
) -> str:
    """The csv of some rows: absolute paths, labels, parts of files, and what a check found.

    Args:
        index: the index.
        rows: which of its rows.
        found: what a check found about rows; what the index says about it where None.
    """
    verified = index.verified if found is None else found.get
    cells = [_row(index, row, verified(row)) for row in rows]
    columns = list(dict.fromkeys(column for row in cells for column in row))
    return write_cells([columns, *([row.get(column, "") for column in columns] for row in cells)])


def _row(index: VideoIndex, row: int, verified: Verified | None) -> dict[str, object]:
    path = index.paths[row]
    cells: dict[str, object] = {
        "path": path if is_url(path) else os.path.abspath(path),
        "label": index.label_name(row),
        **index.numbers(row),
    }
    if verified is not None:
        cells |= {name: getattr(verified, name) for name in VERIFIED}
    return cells
