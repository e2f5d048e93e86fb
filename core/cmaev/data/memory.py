"""How much memory is free, and a buffer that loader processes share without copying."""

import mmap
import os
import resource
import sys
import tempfile
import weakref
from multiprocessing import reduction
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_CGROUP: Final = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that this process can still take, by the machine and by its container's limit."""
    free = _machine_memory()
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        cached = _field(_CGROUP / "memory.stat", "inactive_file")
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(int(limit) - used + cached, 0))


def limit_private_memory(more: int) -> None:
    """Lets this process take `more` bytes beyond what it has; shared memory does not count.

    Past that, allocations fail in this process instead of pushing others out of the machine.
    """
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = _field(Path("/proc/self/status"), "VmData:") * 1024 + more
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _machine_memory() -> int:
    try:
        return _field(Path("/proc/meminfo"), "MemAvailable:") * 1024
    except (OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    raise ValueError(f"{path} has no {name}")


class SharedBytes:
    """A uint8 array in memory that worker processes map instead of copying.

    It is an anonymous file, so it has no name to clean up and no limit of /dev/shm.
    """

    def __init__(self, size: int) -> None:
        if sys.platform == "linux":
            descriptor = os.memfd_create("cmaev-frames")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, max(size, 1))
        self._map(descriptor)

    @property
    def array(self) -> NDArray[np.uint8]:
        """All bytes, (size,)."""
        return self._array

    @property
    def descriptor(self) -> int:
        """What another process can `adopt` once it was sent there."""
        return self._descriptor

    @classmethod
    def adopt(cls, descriptor: int) -> "SharedBytes":
        """Maps what another process made; owns the descriptor from now on."""
        shared = cls.__new__(cls)
        shared._map(descriptor)
        return shared

    def _map(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._array = np.frombuffer(mmap.mmap(descriptor, 0), dtype=np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        # Only possible while a process is being started, which is when datasets travel.
        return {"descriptor": reduction.DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._map(state["descriptor"].detach())
