"""The rows of an index to a table: labels become numbers, and rules between rows are checked."""

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmaev.data.errors import DataError
from cmaev.data.labels import NO_LABEL, default_names, label_number
from cmaev.data.listing import ABSENT, Listing, Row
from cmaev.data.packed import PackedStrings
from cmaev.data.storage import Root, is_file, is_url, size_and_time
from cmaev.data.table import Column, Table, pack_table

# From this many rows on, listing a folder once is cheaper than asking for each of its files.
_LIST_FOLDER_FROM: Final = 32
# Of videos and shards behind URLs only so many, evenly spaced, are asked for.
_REMOTE_PROBES: Final = 8
# Rows with the same path are the same video only if these agree too.
_PARTS: Final = ("start", "total", "offset")


def build_table(source: str, listing: Listing, root: Root) -> bytes:
    """Reads a listing into a block for `Table`.

    Args:
        source: name of the index, for messages.
        listing: its rows.
        root: where relative paths start from.

    Raises:
        DataError: naming the place of a row that cannot be used.
    """
    rows = _Rows(listing.numbers)
    for row in listing.rows:
        rows.append(root.locate(row.path), row)
    if not len(rows.lines):
        raise DataError(f"{source}: the index has a header and no rows; list one video a line")
    columns = rows.columns()
    notes = {
        **listing.notes,
        "source": source,
        "line_word": listing.line_word,
        "label_names": listing.labels or default_names(rows.labels.known),
        "decoders": list(rows.decoders.known),
    }
    where = Places(notes, columns["lines"])
    if "total" in columns:
        _check_segments(columns, where)
    texts = list(rows.labels.known)
    columns["labels"] = number_rows(rows.labels.array, texts, notes["label_names"], where)
    return pack_table(columns, notes)


class _Rows:
    """Collects rows as columns, without an object for each."""

    def __init__(self, numbers: Sequence[str]) -> None:
        self.lines, self.labels, self.decoders = array("i"), _Codes(), _Codes([""])
        self._text, self._ends = bytearray(), array("q", [0])
        self._numbers = {name: array("q") for name in numbers}

    def append(self, path: str, row: Row) -> None:
        self._text += path.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._text))
        self.lines.append(row.line)
        self.labels.append(row.label)
        self.decoders.append(row.decoder)
        for column, number in zip(self._numbers.values(), row.numbers, strict=True):
            column.append(number)

    def columns(self) -> dict[str, Column]:
        """All columns but the labels, which need to be numbered."""
        numbers = {
            name: np.frombuffer(column, dtype=np.int64) for name, column in self._numbers.items()
        }
        return {
            "paths.text": np.frombuffer(self._text, dtype=np.uint8),
            "paths.ends": np.frombuffer(self._ends, dtype=np.int64),
            "lines": np.frombuffer(self.lines, dtype=np.int32),
            "decoder": self.decoders.array.astype(np.int32),
            **numbers,
        }


def _check_segments(columns: dict[str, Column], where: "Places") -> None:
    start, total = columns["start"], columns["total"]
    whole = (total == ABSENT) & (start <= 0)
    wrong = np.flatnonzero(~whole & ((start < 0) | (total < 1)))
    if wrong.size:
        row = int(wrong[0])
        raise DataError(
            f"{where(row)}: start is {start[row]} and total is {total[row]}; give the number of "
            "the first frame and how many there are, or 0 and -1 for the whole video"
        )


def shard_of(path: str) -> str:
    """The tar file of a path `TAR/MEMBER`."""
    return "".join(path.rpartition(".tar/")[:2]).removesuffix("/")


class Places:
    """Names the place of a row, for messages."""

    def __init__(self, notes: Mapping[str, Any], lines: NDArray[np.int32]) -> None:
        self._source, self._word = notes["source"], notes["line_word"]
        self._lines = lines

    def __call__(self, row: int) -> str:
        """`file:line`, in the words of the index's form."""
        if not self._word:
            return str(self._source)
        between = ":" if self._word == "line" else f": {self._word} "
        return f"{self._source}{between}{self._lines[row]}"


class _Codes:
    """Strings as numbers in the order that they come in."""

    def __init__(self, known: Sequence[str] = ()) -> None:
        self.known = {text: code for code, text in enumerate(known)}
        self._codes = array("q")

    def append(self, text: str) -> None:
        self._codes.append(self.known.setdefault(text, len(self.known)))

    @property
    def array(self) -> NDArray[np.int64]:
        return np.frombuffer(self._codes, dtype=np.int64)


def number_rows(
    codes: NDArray[np.int64], texts: Sequence[str], names: Sequence[str], where: Places
) -> NDArray[np.int64]:
    """The label of each row as a number, NO_LABEL where it has none.

    Args:
        codes: (rows,) which of `texts` is the label; NO_LABEL for none.
        texts: labels as they are written.
        names: what the numbers mean.
        where: names a row.

    Raises:
        DataError: naming the first row whose label is unknown or out of range.
    """
    numbers = {name: number for number, name in enumerate(names)}
    # The last place is reached by NO_LABEL, which is -1.
    meant = np.full(len(texts) + 1, NO_LABEL, dtype=np.int64)
    used = np.unique(codes)
    for code in used[used != NO_LABEL].tolist():
        try:
            meant[code] = label_number(texts[code], names, numbers)
        except DataError as error:
            row = int(np.flatnonzero(codes == code)[0])
            raise DataError(f"{where(row)}: {error}") from None
    return meant[codes]


def check_labels_agree(table: Table) -> None:
    """Checks that no video is listed under two labels; twice under one is a heavier weight.

    Raises:
        DataError: naming both rows.
    """
    paths, labels = table.strings("paths"), table["labels"]
    if not len(table.notes["label_names"]):
        return
    # Hashes first: strings are compared only where two are likely to be the same.
    hashes = np.fromiter(map(hash, map(os.path.normpath, paths)), dtype=np.int64, count=len(paths))
    for name in _PARTS:
        if name in table:
            hashes = hashes * 1_000_003 + table[name]
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    differ = labels[order[1:]] != labels[order[:-1]]
    for k in np.flatnonzero(same & differ).tolist():
        first, second = sorted((int(order[k]), int(order[k + 1])))
        if os.path.normpath(paths[first]) == os.path.normpath(paths[second]):
            where = Places(table.notes, table["lines"])
            raise DataError(
                f"{where(second)}: {paths[second]} has another label at {where(first)}; a video "
                "has one label: keep one of the rows"
            )


def check_files(table: Table) -> None:
    """Checks that the videos exist: all local ones, and some of those behind URLs.

    Raises:
        DataError: naming the first rows whose video is missing.
    """
    paths = table.strings("paths")
    if "offset" in table:
        _check_members(table, paths)
        return
    missing = _missing_remote(paths) if is_url(paths[0]) else _missing_local(table, paths)
    if not missing:
        return
    where = Places(table.notes, table["lines"])
    shown = "; ".join(f"{where(row)}: there is no file {paths[row]}" for row in missing[:3])
    more = f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
    if os.path.isdir(paths[missing[0]]):
        row = missing[0]
        raise DataError(
            f"{where(row)}: {paths[row]} is a folder and no video; list a folder of frames as "
            "`path total label` or `path start total`"
        )
    header = "If line 1 is a header, name its columns `path` and `label`. "
    hint = header if ":1: " in shown.partition(";")[0] else ""
    raise DataError(
        f"{len(missing)} of {len(paths)} videos are missing: {shown}{more}. "
        f"{hint}Correct the rows, or set `root` to the folder that the paths start from"
    )


def _check_members(table: Table, paths: PackedStrings) -> None:
    """Checks that the shards are there and as long as their index says."""
    needed: dict[str, int] = {}
    ends = (table["offset"] + table["bytes"]).tolist()
    for row, (path, end) in enumerate(zip(paths, ends, strict=True)):
        shard = shard_of(path)
        if not shard:
            where = Places(table.notes, table["lines"])
            raise DataError(
                f"{where(row)}: {path} is no TAR/MEMBER, of which the columns `offset` and `bytes` "
                "tell the place in a shard; rename them if they mean something else"
            )
        needed[shard] = max(needed.get(shard, 0), end)
    probes = _probes(len(needed)) if is_url(paths[0]) else range(len(needed))
    for shard, end in (list(needed.items())[k] for k in probes):
        size = size_and_time(shard)[0]
        if size < end:
            raise DataError(f"{shard}: it has {size} bytes of at least {end}; copy it again")


def _missing_remote(paths: PackedStrings) -> list[int]:
    return [row for row in _probes(len(paths)) if not is_file(paths[row])]


def _probes(count: int) -> Iterable[int]:
    places: list[int] = (
        np.linspace(0, count - 1, num=min(count, _REMOTE_PROBES)).astype(int).tolist()
    )
    return places


def _missing_local(table: Table, paths: PackedStrings) -> list[int]:
    folders = table["total"] >= 0 if "frames" in table.notes else np.zeros(len(paths), np.bool_)
    counts = Counter(map(os.path.dirname, paths))
    listed = {
        folder: _names(folder) for folder, count in counts.items() if count >= _LIST_FOLDER_FROM
    }
    missing = []
    for row, (path, is_folder) in enumerate(zip(paths, folders.tolist(), strict=True)):
        if is_url(path):
            continue
        folder, name = os.path.split(path)
        kinds = listed.get(folder)
        if kinds is None:
            found = os.path.isdir(path) if is_folder else os.path.isfile(path)
        else:
            found = kinds.get(name) == is_folder
        if not found:
            missing.append(row)
    return missing


def _names(folder: str) -> dict[str, bool]:
    """The names in a folder, and whether each is a folder itself."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_dir() for entry in entries}
    except OSError:
        return {}
