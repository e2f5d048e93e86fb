"""Columns of an index in one block of bytes that processes map instead of copying.

The block is a safetensors file: a plain format, read by other tools too, that cannot run code.
"""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from cmaev.data.memory import SharedBytes
from cmaev.data.packed import PackedStrings

Column = NDArray[Any]

_DTYPES: Final = {"I64": np.int64, "I32": np.int32, "U8": np.uint8}
_LENGTH_BYTES: Final = 8
# Smaller tables travel to workers as bytes, which works at any time and costs little.
_SHARE_FROM: Final = 4 << 20


def pack_table(columns: Mapping[str, Column], notes: Mapping[str, Any]) -> bytes:
    """The block that holds `columns`, one-dimensional arrays, and `notes`, which are JSON."""
    return save(dict(columns), metadata={"notes": json.dumps(notes)})


class Table:
    """Named columns, not to be written to, and notes about them."""

    def __init__(self, block: NDArray[np.uint8]) -> None:
        """Looks into a block that `pack_table` made.

        Raises:
            ValueError: if it is none, or is not whole.
        """
        self._block = block
        self._origin: Path | SharedBytes | None = None
        header, start = _read_header(block)
        self.notes: dict[str, Any] = json.loads(header.pop("__metadata__")["notes"])
        self._columns = {name: _column(block[start:], entry) for name, entry in header.items()}

    @classmethod
    def map_file(cls, path: Path) -> Self:
        """Maps a file; processes that map the same one share its memory.

        Raises:
            OSError: if it cannot be opened.
            ValueError: if it is no table, or is not whole.
        """
        with open(path, "rb") as file:
            block = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        table = cls(np.frombuffer(block, dtype=np.uint8))
        table._origin = path
        return table

    @classmethod
    def hold(cls, block: bytes) -> Self:
        """Keeps a block in memory, a large one where worker processes can share it."""
        if len(block) < _SHARE_FROM:
            return cls(np.frombuffer(block, dtype=np.uint8))
        shared = SharedBytes(len(block))
        shared.array[:] = np.frombuffer(block, dtype=np.uint8)
        return cls._of_shared(shared)

    @classmethod
    def _of_shared(cls, shared: SharedBytes) -> Self:
        table = cls(shared.array)
        table._origin = shared
        return table

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    def strings(self, name: str) -> PackedStrings:
        """The column of strings `name`, which is stored as `name.text` and `name.ends`."""
        return PackedStrings(self[f"{name}.text"], self[f"{name}.ends"])

    def to_bytes(self) -> bytes:
        """The whole block, as `pack_table` made it."""
        return self._block.tobytes()

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self._origin, Path):
            return Table.map_file, (self._origin,)
        if self._origin is not None:
            return Table._of_shared, (self._origin,)
        return Table.hold, (self.to_bytes(),)


def _read_header(block: NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    """The header's entries, and where the columns start."""
    start = _LENGTH_BYTES + int.from_bytes(block[:_LENGTH_BYTES].tobytes(), "little")
    header = json.loads(block[_LENGTH_BYTES:start].tobytes())
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if start + max(ends) != len(block):
        raise ValueError("the table is not whole")
    return header, start


def _column(data: NDArray[np.uint8], entry: dict[str, Any]) -> Column:
    start, end = entry["data_offsets"]
    column = data[start:end].view(_DTYPES[entry["dtype"]])
    column.flags.writeable = False
    return column
