"""The text of an index to rows: csv with a header, or lines of `path label`, `path` or V2's lists.

Cells are separated by commas, tabs, semicolons or any number of spaces; quotes hold a cell together
and stand doubled inside of one.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from cmaev.data.errors import DataError
from cmaev.data.frame_lists import SEGMENT, FrameList, read_frame_list
from cmaev.data.listing import ABSENT, Listing, Row
from cmaev.data.storage import Root

_WHOLE_LINE: Final = ""
_BLANKS: Final = (" ", _WHOLE_LINE)
_WORD: Final = re.compile(r'"((?:[^"]|"")+)"(?=\s|$)|(\S+)')
_PLAIN_CELL: Final = re.compile(r'[^\s",;]+')
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_LARGEST: Final = 2**63 - 1
# Columns that are read where a header has all of a group; others are left alone.
VERIFIED: Final = ("frames", "decoder", "bytes", "mtime_ns")
MEMBER: Final = ("offset", "bytes")

_Cells = tuple[int, list[str]]
_Table = Callable[[], Iterator[_Cells]]


def read_text(source: str, data: bytes, root: Root) -> Listing:
    """Reads the rows of an index file.

    Args:
        source: name of the index file, for messages.
        data: its content.
        root: where its paths start from; what is there decides between separators.

    Raises:
        DataError: if the text is not UTF-8, empty, or has a row of another form; some of it only
            when the rows are read.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{source}: the index is not UTF-8 text; save it as UTF-8") from None
    first = next((line for line in _lines(text) if line.strip()), None)
    if first is None:
        raise DataError(f"{source}: the index is empty; list one video a line")
    delimiter = _header_delimiter(source, first)
    if delimiter is not None:
        return _with_header(source, partial(_cells, source, text, delimiter), root)
    delimiter = _delimiter(source, first, root)
    return _without_header(source, partial(_cells, source, text, delimiter), root)


def write_cells(rows: Sequence[Sequence[object]]) -> str:
    """Rows as csv that `read_text` reads back as they are, whatever stands in a cell."""
    return "".join(",".join(map(_quote, row)) + "\n" for row in rows)


def _quote(cell: object) -> str:
    text = str(cell)
    return text if not text or _PLAIN_CELL.fullmatch(text) else '"' + text.replace('"', '""') + '"'


def _lines(text: str) -> Iterator[str]:
    """What an editor counts as lines; other separators of Unicode may stand in a path."""
    return (line.rstrip("\n") for line in io.StringIO(text, newline=None))


def _cells(source: str, text: str, delimiter: str) -> Iterator[_Cells]:
    """(line, cells) of each row that is not blank; runs of blanks separate once."""
    rows: Iterator[_Cells]
    if delimiter in _BLANKS:
        split = _split_at_blanks if delimiter == " " else _whole_line
        rows = ((line, split(words)) for line, words in enumerate(_lines(text), start=1))
    else:
        rows = _csv_rows(source, text, delimiter)
    for line, cells in rows:
        if any(cells):
            yield line, cells


def _csv_rows(source: str, text: str, delimiter: str) -> Iterator[_Cells]:
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{source}:{reader.line_num}: {error}; look for an open quote") from None


def _split_at_blanks(line: str) -> list[str]:
    return [quoted.replace('""', '"') or plain for quoted, plain in _WORD.findall(line)]


def _whole_line(line: str) -> list[str]:
    return [line.strip()]


def _header_delimiter(source: str, first: str) -> str | None:
    """What separates the columns of a header, None if `first` is no header."""
    for delimiter in ",\t; ":
        for _, cells in _cells(source, first, delimiter):
            if "path" in _header(cells):
                return delimiter
    return None


def _header(cells: list[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]


def _with_header(source: str, table: _Table, root: Root) -> Listing:
    rows = table()
    names = _header(next(rows)[1])
    path, decoder = names.index("path"), None
    label = names.index("label") if "label" in names else None
    groups = [group for group in (SEGMENT, VERIFIED, MEMBER) if set(group) <= set(names)]
    numbers = dict.fromkeys(name for group in groups for name in group if name != "decoder")
    places = [(name, names.index(name)) for name in numbers]
    if VERIFIED in groups:
        decoder = names.index("decoder")

    def read() -> Iterator[Row]:
        for line, row in rows:
            if len(row) != len(names) or not row[path]:
                raise DataError(
                    f"{source}:{line}: {len(row)} cells under a header of {len(names)}, or no "
                    "path; give every row all columns and quote paths that hold the separator"
                )
            values = tuple(_number(source, line, row[place], name) for name, place in places)
            yield Row(
                line,
                _trimmed(row[path], root),
                "" if label is None else row[label].strip(),
                values,
                "" if decoder is None else row[decoder].strip(),
            )

    notes: Mapping[str, object] = {}
    if SEGMENT in groups:
        start, total = names.index("start"), names.index("total")
        cells = ((line, [row[path], row[start], row[total]]) for line, row in _body(table, names))
        notes = read_frame_list(source, cells, root, ordered=True).notes
    return Listing(rows=read(), numbers=tuple(numbers), notes=notes)


def _body(table: _Table, names: Sequence[str]) -> Iterator[_Cells]:
    rows = table()
    next(rows)
    return ((line, row) for line, row in rows if len(row) == len(names))


def _number(source: str, line: int, cell: str, column: str) -> int:
    text = cell.strip()
    if not text:
        return ABSENT
    if not _INTEGER.fullmatch(text) or int(text) > _LARGEST:
        raise DataError(
            f"{source}:{line}: {column} is {text!r}; write a whole number or leave the cell empty"
        )
    return int(text)


def _trimmed(path: str, root: Root) -> str:
    """A cell without the blanks around it, unless they are part of the file's name."""
    stripped = path.strip()
    return path if path == stripped or not stripped or root.kind(path) else stripped


def _delimiter(source: str, first: str, root: Root) -> str:
    """The separator under which the first row names a video; else the likeliest one."""
    present = [delimiter for delimiter in "\t,; " if delimiter in first.strip()]
    for delimiter in present:
        for _, cells in _cells(source, first, delimiter):
            if len(cells) <= 3 and root.kind(_complete(cells[0].strip(), root)):
                return delimiter
    if root.kind(first.strip()):
        return _WHOLE_LINE
    return present[0] if present else _WHOLE_LINE


def _complete(path: str, root: Root) -> str:
    """VideoMAE's lists may leave `.mp4` off."""
    if "." in path.rpartition("/")[2] or root.kind(path):
        return path
    return f"{path}.mp4" if root.kind(f"{path}.mp4") else path


def _without_header(source: str, table: _Table, root: Root) -> Listing:
    first = next(table())[1]
    width = len(first)
    form = FrameList(SEGMENT)
    if width == 3 and all(map(_INTEGER.fullmatch, map(str.strip, first[1:]))):
        form = read_frame_list(source, table(), root)
    elif width not in (1, 2):
        width = 0
    complete = _complete(first[0].strip(), root) != first[0].strip()

    def read() -> Iterator[Row]:
        for line, cells in table():
            if len(cells) != width or not all(cells):
                raise DataError(
                    f"{source}:{line}: {len(cells)} fields; every line must read `path label` or "
                    "every line `path`: put quotes around paths with spaces"
                )
            path = _trimmed(cells[0], root)
            if complete and "." not in path.rpartition("/")[2]:
                path += ".mp4"
            if width < 3:
                yield Row(line, path, cells[1].strip() if width == 2 else "")
            else:
                pair = [_number(source, line, cell, "a column") for cell in cells[1:]]
                yield form.row(line, path, pair[0], pair[1])

    numbers = SEGMENT if width == 3 else ()
    return Listing(rows=read(), numbers=numbers, notes=form.notes)
