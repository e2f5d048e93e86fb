"""The text of an index file to rows: csv with a header, or lines of `path label` or `path`."""

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cmaev.data.errors import DataError

_WHOLE_LINE: Final = ""
_BLANKS: Final = (" ", _WHOLE_LINE)
_WORD: Final = re.compile(r'"([^"]+)"|(\S+)')


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
    delimiter = _header_delimiter(source, first)
    if delimiter is not None:
        rows = list(_rows_with_header(source, text, delimiter))
    else:
        rows = list(_rows_without_header(source, text, _delimiter(source, first, exists)))
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


def _cells(source: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row that is not blank; runs of blanks separate once."""
    rows: Iterator[tuple[int, list[str]]]
    if delimiter in _BLANKS:
        split = _split_at_blanks if delimiter == " " else _whole_line
        rows = ((line, split(words)) for line, words in enumerate(text.splitlines(), start=1))
    else:
        rows = _csv_rows(source, text, delimiter)
    for line, cells in rows:
        if any(cells):
            yield line, cells


def _csv_rows(source: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    try:
        for cells in reader:
            yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DataError(f"{source}:{reader.line_num}: {error}; look for an open quote") from None


def _split_at_blanks(line: str) -> list[str]:
    return [quoted or plain for quoted, plain in _WORD.findall(line)]


def _whole_line(line: str) -> list[str]:
    return [line.strip()]


def _header_delimiter(source: Path, first: str) -> str | None:
    """What separates the columns of a header, None if `first` is no header."""
    for delimiter in ",\t; ":
        for _, cells in _cells(source, first, delimiter):
            if "path" in map(str.lower, cells):
                return delimiter
    return None


def _rows_with_header(source: Path, text: str, delimiter: str) -> Iterator[Row]:
    rows = _cells(source, text, delimiter)
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


def _delimiter(source: Path, first: str, exists: Callable[[str], bool]) -> str:
    """The separator under which the first row names a file; else the likeliest one."""
    present = [delimiter for delimiter in "\t, " if delimiter in first.strip()]
    for delimiter in present:
        for _, cells in _cells(source, first, delimiter):
            if len(cells) <= 2 and exists(cells[0]):
                return delimiter
    if exists(first.strip()):
        return _WHOLE_LINE
    return present[0] if present else _WHOLE_LINE


def _rows_without_header(source: Path, text: str, delimiter: str) -> Iterator[Row]:
    width: int | None = None
    for line, cells in _cells(source, text, delimiter):
        if width is None:
            width = len(cells)
        if len(cells) not in (1, 2) or len(cells) != width or not all(cells):
            raise DataError(
                f"{source}:{line}: {len(cells)} fields; every line must read `path label` or every "
                "line `path`: put quotes around paths with spaces"
            )
        yield Row(line, cells[0], cells[1] if width == 2 else "")
