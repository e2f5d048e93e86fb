"""What every form of index is read into: rows of a path, a label and perhaps numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

ABSENT: Final = -1
"""A number that is not given."""


class Row(NamedTuple):
    """One video; `label` is empty where there is none, `numbers` are as `Listing.numbers`."""

    line: int
    path: str
    label: str
    numbers: tuple[int, ...] = ()
    decoder: str = ""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What an index lists.

    Attributes:
        rows: its rows, to be read once.
        numbers: names of the columns of numbers.
        labels: all label names in order, where the index tells; its labels, sorted, where empty.
        line_word: what `Row.line` counts; empty where it counts nothing.
        notes: what else to keep beside the columns.
    """

    rows: Iterable[Row]
    numbers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    line_word: str = "line"
    notes: Mapping[str, Any] = field(default_factory=dict)
