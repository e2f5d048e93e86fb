"""VideoMAE v2's lists with two numbers: parts of videos, and folders of one picture per frame.

`path start total` is a part of a video, the whole of it where total is -1; for a folder it is
frames `start` to `start + total - 1`, and `path total label` is its other form (method.md 6).
"""

import itertools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from cmaev.data.errors import DataError
from cmaev.data.listing import ABSENT, Row
from cmaev.data.storage import Root

SEGMENT: Final = ("start", "total")
_FRAME: Final = re.compile(r"(.*?)([0-9]+)(\.(?:jpe?g|png|webp|bmp))", re.IGNORECASE)
_PROBES: Final = 16


@dataclass(frozen=True)
class FrameList:
    """How the two numbers of a list are meant.

    Attributes:
        columns: `start total` or `total label`.
        notes: `frames`: the template of the names of a folder's files and its first number;
            nothing for a list of videos.
    """

    columns: tuple[str, str]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def row(self, line: int, path: str, first: int, second: int) -> Row:
        """A row with the numbers in their places."""
        if self.columns == SEGMENT:
            return Row(line, path, "", (first, second))
        return Row(line, path, str(second), (self.notes["frames"]["first"], first))


class FrameNames(NamedTuple):
    """What the files of a folder are called: `size` numbers from `first` on."""

    template: str
    first: int
    size: int


class _Probe(NamedTuple):
    line: int
    path: str
    numbers: tuple[int, int]
    names: FrameNames


def read_frame_list(
    source: str, cells: Iterable[tuple[int, list[str]]], root: Root, *, ordered: bool = False
) -> FrameList:
    """Looks at the first folders of a list to tell how its numbers are meant.

    Args:
        source: name of the index, for messages.
        cells: its rows of a path and two numbers.
        root: where paths start from.
        ordered: the numbers are known to be `start total`.

    Raises:
        DataError: if the numbers fit the folders in neither way, or in both.
    """
    probes = list(itertools.islice(_probes(source, cells, root), _PROBES))
    if not probes:
        return FrameList(SEGMENT)
    names = probes[0].names
    notes = {"frames": {"template": names.template, "first": names.first}}
    if ordered:
        return FrameList(SEGMENT, notes)
    by_start = sum(map(_fit_start_total, probes))
    by_label = sum(map(_fit_total_label, probes))
    # `1 total` with too large a total looks like one frame and a label; a list of labels has whole
    # folders too.
    sure = by_start > by_label or 2 in map(_fit_total_label, probes)
    if by_start == by_label or not sure:
        probe = probes[0]
        raise DataError(
            f"{source}:{probe.line}: {probe.path} holds {probe.names.size} frames from "
            f"{probe.names.first} on; {probe.numbers[0]} {probe.numbers[1]} can be read as neither "
            "`start total` nor `total label` for sure: write a csv with the header "
            "`path,start,total,label`"
        )
    return FrameList(SEGMENT if by_start > by_label else ("total", "label"), notes)


def frame_names(folder: str) -> FrameNames | None:
    """How the frames in a folder are named; None if it holds no numbered pictures."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in os.listdir(folder):
        parts = _FRAME.fullmatch(name)
        if parts is not None:
            groups.setdefault((parts[1], parts[3]), []).append(parts[2])
    if not groups:
        return None
    (prefix, suffix), numbers = max(groups.items(), key=lambda group: len(group[1]))
    # A padded number may grow past its padding, so those that begin with 0 tell the width.
    width = max((len(number) for number in numbers if number.startswith("0")), default=0)
    before, after = (text.replace("{", "{{").replace("}", "}}") for text in (prefix, suffix))
    template = f"{before}{{:0{width}}}{after}" if width else f"{before}{{}}{after}"
    return FrameNames(template, min(map(int, numbers)), len(numbers))


def _probes(source: str, cells: Iterable[tuple[int, list[str]]], root: Root) -> Iterable[_Probe]:
    for line, (path, first, second) in ((line, row) for line, row in cells if len(row) == 3):
        try:
            numbers = int(first), int(second)
        except ValueError:
            continue
        # -1 marks a video in a list of both.
        if (numbers[1] == ABSENT and numbers[0] <= 0) or root.kind(path) != "folder":
            continue
        names = frame_names(root.locate(path))
        if names is None:
            raise DataError(
                f"{source}:{line}: {path} is a folder without numbered pictures such as "
                "img_00001.jpg; name a video, or a folder of frames"
            )
        yield _Probe(line, path, numbers, names)


def _fit_start_total(probe: _Probe) -> int:
    """2 if the frames reach to the folder's last, 1 if they lie inside of it, 0 otherwise."""
    (start, total), names = probe.numbers, probe.names
    end = names.first + names.size
    if total < 1 or not names.first <= start <= start + total <= end:
        return 0
    return 2 if start + total == end else 1


def _fit_total_label(probe: _Probe) -> int:
    total, names = probe.numbers[0], probe.names
    return 2 if total == names.size else int(1 <= total <= names.size)
