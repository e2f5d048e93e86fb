"""One writer per run directory and node.

A worker that lost its lease may still be dying while the next one starts on the same directory.
The lock waits for it: it belongs to the open file, which every process of the run inherits, so the
kernel frees it when the last of them is gone, however it ended.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from cmaev_spec.rundir import RunDir

LOCK_NAME = ".lock"


class RunBusyError(RuntimeError):
    """Another process still writes into the run directory."""


@contextlib.contextmanager
def hold_run(run: RunDir, *, node: int = 0, patience: float = 60.0) -> Iterator[int]:
    """Holds the lock of a run directory; yields its descriptor, for children to inherit.

    Args:
        run: an existing run directory.
        node: which of the job's nodes asks; each has a lock of its own.
        patience: seconds to wait for another holder to go away.

    Raises:
        RunBusyError: if the other holder stays.
    """
    name = f"{LOCK_NAME}-{node}" if node else LOCK_NAME
    descriptor = os.open(run.path / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, run, deadline=time.monotonic() + patience)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, run: RunDir, *, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RunBusyError(
                    f"another process still writes into {run.path}; stop it, then try again"
                ) from None
            time.sleep(0.1)
        else:
            return
