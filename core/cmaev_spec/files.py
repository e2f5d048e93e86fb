"""Files that survive kill -9: write to a temporary name, flush to disk, rename."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cmaev_spec import faults

_CHUNK_BYTES: Final = 1 << 16
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def write_atomic(path: str | Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Replaces `path` by `data`; a reader sees the old content or the new, never a part."""
    _write(Path(path), data, mode=mode, publish=os.replace)


def create_atomic(path: str | Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Creates `path` with `data`; of several processes that try, one succeeds.

    Raises:
        FileExistsError: if `path` is there already; it is left as it is.
    """
    _write(Path(path), data, mode=mode, publish=_link)


def _write(
    path: Path, data: bytes | str, *, mode: int, publish: Callable[[str, Path], None]
) -> None:
    raw = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            faults.write(file, raw, point=f"write:{path.name}")
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
    sync_directory(path.parent)


def _link(temporary: str, path: Path) -> None:
    os.link(temporary, path)
    os.unlink(temporary)


def sync_directory(path: str | Path) -> None:
    """Makes renames and new names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def no_room(error: OSError) -> str | None:
    """What to say of a disk that is full; None for every other error."""
    if error.errno not in _FULL:
        return None
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror}; make room, then run it again"


def drop_partial_line(path: Path) -> None:
    """Cuts a last line that a killed run left unfinished, so that the next line is whole."""
    if not path.is_file():
        return
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _CHUNK_BYTES)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)
