"""What a command has done so far: a line for each video, of which the last one holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from cmaev.data.errors import DataError
from cmaev_spec.files import drop_partial_line


class Entry(Protocol):
    """What became of a video."""

    @property
    def key(self) -> str:
        """Names the video."""
        ...


E = TypeVar("E", bound=Entry)


def read_entries(path: Path, *, parse: Callable[[bytes], E], command: str) -> dict[str, E]:
    """The last entry of each video, by its key; a line that was cut short is removed.

    Args:
        path: the file; there may be none yet.
        parse: makes an entry of a line, or raises ValueError, KeyError or TypeError.
        command: whose file it is, for the message.

    Raises:
        DataError: if a line is none of the command's.
    """
    drop_partial_line(path)
    if not path.is_file():
        return {}
    try:
        return {entry.key: entry for entry in map(parse, path.read_bytes().splitlines())}
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: it is no state of `{command}`; delete it to begin anew") from None
