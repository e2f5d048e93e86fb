"""The text of an index file to rows: csv with a header, or lines of `path label` or `path`."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cmaev.data.errors import DataError


class Row(NamedTuple):
    """A row of an index; `label` is empty where there is none."""

    line: int
    path: str
    label: str


def read_rows(source: Path, exists: Callable[[str], bool]) -> list[Row]:
    """Reads the rows of an index file.

    Args:
        source: the index file.
        exists: tells whether a path of the index names a file; decides between separators.

    Raises:
        DataError: if the file is missing, not text, empty, or has a row of another form.
    """
    text = _read_text(source)
    first = next((line for line in text.splitlines() if line.strip()), None)
    if first is None:
        raise DataError(f"{source}: the index is empty; list one video a line")
    delimiter = _header_delimiter(first)
    if delimiter is not None:
        rows = list(_rows_with_header(source, text, delimiter))
    else:
        rows = list(_rows_without_header(source, text, _delimiter(first, exists)))
    if not rows:
        raise DataError(f"{source}: the index has a header and no rows; list one video a line")
    return rows


def _read_text(source: Path) -> str:
    try:
        return source.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{source}: there is no such index file; check the path") from None
    except OSError as error:
        raise DataError(f"{source}: the index cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{source}: the index is not UTF-8 text; save it as UTF-8") from None


def _cells(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row that is not blank; runs of blanks separate once."""
    reader = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    for cells in reader:
        stripped = [cell.strip() for cell in cells]
        if delimiter == " ":
            stripped = [cell for cell in stripped if cell]
        if any(stripped):
            yield reader.line_num, stripped


def _header_delimiter(first: str) -> str | None:
    """What separates the columns of a header, None if `first` is no header."""
    for delimiter in ",\t;":
        if any(cell.lower() == "path" for _, cells in _cells(first, delimiter) for cell in cells):
            return delimiter
    return None


def _rows_with_header(source: Path, text: str, delimiter: str) -> Iterator[Row]:
    rows = _cells(text, delimiter)
    _, header = next(rows)
    names = [name.lower() for name in header]
    path, label = names.index("path"), names.index("label") if "label" in names else None
    for line, cells in rows:
        if len(cells) != len(names) or not cells[path]:
            raise DataError(
                f"{source}:{line}: {len(cells)} cells under a header of {len(names)}, or no path; "
                "give every row all columns and quote paths that hold the separator"
            )
        yield Row(line, cells[path], "" if label is None else cells[label])


def _delimiter(first: str, exists: Callable[[str], bool]) -> str:
    """The separator under which the first row names a file; else the likeliest one."""
    present = [delimiter for delimiter in "\t, " if delimiter in first.strip()]
    for delimiter in present:
        for _, cells in _cells(first, delimiter):
            if len(cells) <= 2 and exists(cells[0]):
                return delimiter
    if exists(first.strip()):
        return "\0"
    return present[0] if present else "\0"


def _rows_without_header(source: Path, text: str, delimiter: str) -> Iterator[Row]:
    width: int | None = None
    for line, cells in _cells(text, delimiter):
        if width is None:
            width = len(cells)
        if len(cells) not in (1, 2) or len(cells) != width or not all(cells):
            raise DataError(
                f"{source}:{line}: {len(cells)} fields; every line must read `path label` or every "
                "line `path`: put quotes around paths with spaces"
            )
        yield Row(line, cells[0], cells[1] if width == 2 else "")
