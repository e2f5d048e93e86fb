"""Points at which a test may kill a process: `CMAEV_FAULT=checkpoint:state` or `...:state#3`.

Where the variable names a point, the process that reaches it (for the third time) dies as by kill
-9, with nothing flushed or tidied up. Without the variable all of this does nothing.
"""

import os
import signal
from collections import Counter
from typing import IO, AnyStr, Final

VARIABLE: Final = "CMAEV_FAULT"
POINTS: Final = (
    "checkpoint:begin",  # nothing is written
    "checkpoint:model",  # the weights are
    "checkpoint:state",  # and the rest of the state
    "write:manifest.json",  # half of the manifest is, under its temporary name
    "checkpoint:complete",  # all is, under the temporary name of the folder
    "checkpoint:renamed",  # the folder has its name, which may not be durable yet
    "checkpoint:prune",  # an old checkpoint has lost its manifest and is still there
    "metrics:append",  # half of a row is written
    "events:append",  # half of an event is
)
"""Where checkpoints and logs can be cut off; `write:NAME` is every file written atomically."""

_reached: Counter[str] = Counter()


def reach(point: str) -> None:
    """Dies here if a test chose this point."""
    if _due(point):
        _die()


def write(file: IO[AnyStr], data: AnyStr, *, point: str) -> None:
    """Writes `data`; half of it and no more if a test chose this point."""
    if _due(point):
        file.write(data[: len(data) // 2])
        file.flush()
        _die()
    file.write(data)


def _due(point: str) -> bool:
    chosen = os.environ.get(VARIABLE)
    if chosen is None:
        return False
    name, _, count = chosen.partition("#")
    if name != point:
        return False
    _reached[point] += 1
    return _reached[point] == int(count or 1)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
