"""Labels as numbers: by the place of their name, or by their own value."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from cmaev.data.errors import DataError

NO_LABEL: Final = -1
LARGEST_LABEL: Final = 99_999

_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")


def has_no_label(text: str) -> bool:
    """An empty cell and -1 say that a video has no label."""
    return not text or (is_number(text) and int(text) == NO_LABEL)


def is_number(text: str) -> bool:
    """Whether a label is an integer."""
    return _NUMBER.fullmatch(text) is not None


def default_names(labels: Iterable[str]) -> tuple[str, ...]:
    """What the numbers of an index mean: its labels, sorted, or 0 to the largest number."""
    used = sorted(label for label in labels if not has_no_label(label))
    if not all(map(is_number, used)):
        return tuple(used)
    largest = max(map(int, used), default=NO_LABEL)
    return tuple(map(str, range(min(largest, LARGEST_LABEL) + 1)))


def label_number(label: str, names: Sequence[str], numbers: dict[str, int]) -> int:
    """The number of a label.

    Args:
        label: a name, or a number from 0 on; empty or -1 for none.
        names: what the numbers mean.
        numbers: where each name stands.

    Raises:
        DataError: for another name, or a number that is too large; without the place.
    """
    known = numbers.get(label)
    if known is not None:
        return known
    if has_no_label(label):
        return NO_LABEL
    if is_number(label):
        if 0 <= int(label) < len(names):
            return int(label)
        there = f"0 to {len(names) - 1}" if names else "0 or more"
        raise DataError(f"label {label} is out of range; use {there}, or -1 for none")
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    raise DataError(f"unknown label {label!r}; use one of {shown}, or add it to `labels`")
