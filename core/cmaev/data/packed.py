"""A list of strings in two arrays: little memory, and nothing to copy to loader workers."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, Self, overload

import numpy as np
from numpy.typing import NDArray

# Strings that are copied at a time when all are wanted in turn.
_BLOCK: Final = 4096


class PackedStrings(Sequence[str]):
    """Immutable strings, held as UTF-8 bytes end to end."""

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        """Looks into arrays that are there already.

        Args:
            text: the bytes of all strings.
            ends: (strings + 1,), 0 and then where each string ends.
        """
        self.text, self.ends = text, ends

    @classmethod
    def pack(cls, values: Iterable[str]) -> Self:
        """Copies strings into arrays of their own."""
        text = bytearray()
        ends = [0]
        for value in values:
            text += value.encode("utf-8", "surrogateescape")
            ends.append(len(text))
        return cls(np.frombuffer(text, dtype=np.uint8), np.asarray(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[k] for k in range(*place.indices(len(self)))]
        if place < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError(f"{place} is outside a list of {len(self)}")
        part = self.text[self.ends[place] : self.ends[place + 1]]
        return part.tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _BLOCK):
            ends = self.ends[first : first + _BLOCK + 1]
            text = self.text[ends[0] : ends[-1]].tobytes()
            for start, end in pairwise((ends - ends[0]).tolist()):
                yield text[start:end].decode("utf-8", "surrogateescape")
