"""The program of a limited child: `-m cmaev.data.sandbox_child FD MODULE…`; see `sandbox`."""

import importlib
import math
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cmaev.data.errors import DataError
from cmaev_spec import lifeline


def main() -> None:
    """Answers calls until the other side is gone."""
    lifeline.watch()
    connection = Connection(int(sys.argv[1]))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    connection.send("ready")
    while True:
        try:
            function, argument, memory, seconds = connection.recv()
        except EOFError:
            return
        connection.send(_call(function, argument, memory, seconds))


def _call(
    function: Callable[[Any], Any], argument: Any, memory: int, seconds: float
) -> tuple[str, Any]:
    try:
        with _limits(memory, seconds):
            return "value", function(argument)
    except DataError as error:
        return "value", DataError(str(error))
    except MemoryError:
        return "value", DataError(
            f"it needs more than {memory >> 20} MiB of memory to decode; scale it down"
        )
    except Exception:
        return "error", traceback.format_exc()


@contextmanager
def _limits(memory: int, seconds: float) -> Iterator[None]:
    """Limits what is added from here on; the kernel ends a child that no clock could stop."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = usage.ru_utime + usage.ru_stime
    limits = {
        resource.RLIMIT_AS: _address_space() + memory,
        resource.RLIMIT_CPU: math.ceil(spent + seconds) + 1,
    }
    before = {kind: resource.getrlimit(kind) for kind in limits}
    for kind, limit in limits.items():
        most = before[kind][1]
        resource.setrlimit(kind, (limit if most < 0 else min(limit, most), most))
    try:
        yield
    finally:
        for kind, pair in before.items():
            resource.setrlimit(kind, pair)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
