"""Where commands write: local, and one process at a time."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cmaev.data.errors import DataError

# `Path` takes a slash from `s3://…`.
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_output(path: str | os.PathLike[str]) -> Path:
    """A path to write to.

    Raises:
        DataError: for a URL, also for one that became a `Path`.
    """
    text = os.fspath(path)
    if _SCHEME.match(text):
        raise DataError(f"{text}: it is written to a local folder; upload it when it is done")
    return Path(text)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes out; the kernel frees the lock however this one ends.

    Raises:
        DataError: if another one is there.
    """
    with open(folder / ".lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{folder}: another process writes there; wait for it, or choose another folder"
            ) from None
        yield
