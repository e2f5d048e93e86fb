"""A dataset whose videos do in a loader process what bad files do to decoders."""

import ctypes
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cmaev.data.errors import BadVideo, BadVideoError


@dataclass
class FaultyVideos:
    """Samples of numbers, drawn from (epoch, row); `faults` names what else a row does.

    Attributes:
        count: videos.
        faults: by row, the name of a method.
        folder: for notes that outlive a process.
    """

    count: int
    folder: Path
    faults: dict[int, str] = field(default_factory=dict)

    def __len__(self):
        return self.count

    def sample(self, index, *, epoch):
        fault = self.faults.get(index)
        if fault is not None:
            getattr(self, fault)(index)
        values = np.random.default_rng([epoch, index]).random((3, 2))
        return {"index": np.asarray(index), "values": values}

    def broken(self, index):
        raise BadVideoError(BadVideo(index, f"list.txt:{index}", f"{index}.mp4", "it is broken"))

    def hold_gil(self, index):
        while True:
            ctypes.PyDLL(None).pause()

    def hungry(self, index):
        """Takes memory until it is refused, then gives up as NumPy does."""
        taken = []
        while True:
            taken.append(np.ones(1 << 22))

    def crash(self, index):
        os.kill(os.getpid(), signal.SIGSEGV)

    def killed_once(self, index):
        mark = self.folder / f"killed-{index}"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def stuck_once(self, index):
        mark = self.folder / f"stuck-{index}"
        if not mark.exists():
            mark.touch()
            self.hold_gil(index)

    def mistake(self, index):
        raise KeyError(f"a mistake of ours at {index}")


def end_at_once(*_arguments):
    os._exit(3)
