"""A loader process: reads the batches it is told to, and notes at any time which video it is on.

Nothing a decoder does reaches further than its process. The kernel keeps its memory in bounds;
whoever started it reads its notes and kills it when one video takes too long.
"""

import contextlib
import math
import os
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Final, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from cmaev.data.batch import Layout, pack
from cmaev.data.errors import BadVideo
from cmaev.data.memory import SharedBytes, limit_private_memory
from cmaev.data.order import Key
from cmaev.data.samples import SampleReader

# Exit code of a process that met the limit of its memory.
OUT_OF_MEMORY: Final = 71
_TORCH_OUT_OF_MEMORY: Final = "can't allocate memory"
_IDLE: Final = -1


@dataclass(frozen=True, kw_only=True)
class WorkerLimits:
    """What one loader process may take.

    Attributes:
        sample_seconds: longest time for one video.
        memory_bytes: most private memory beyond what it starts with.
    """

    sample_seconds: float = 60.0
    memory_bytes: int = 4 << 30


@dataclass(frozen=True)
class Request:
    """A batch to read."""

    ticket: int
    keys: Sequence[Key]


@dataclass(frozen=True)
class Answer:
    """A batch that was read; its memory follows, unless every sample is left out."""

    ticket: int
    layout: Layout | None
    bad: Sequence[BadVideo]


class Notes:
    """Which video each process is on, and since when, in memory that survives the process."""

    def __init__(self, workers: int) -> None:
        self._memory = SharedBytes(2 * 8 * workers)
        for worker in range(workers):
            self.idle(worker)

    def begin(self, worker: int, row: int) -> None:
        """Notes that `worker` opens the video at `row` now."""
        # The time goes first: a reader may see a video with too little time, never with too much.
        self._rows[worker, 1] = time.monotonic_ns()
        self._rows[worker, 0] = row

    def idle(self, worker: int) -> None:
        """Notes that `worker` is on no video."""
        self.begin(worker, _IDLE)

    def row(self, worker: int) -> int | None:
        """The video that `worker` is on, or was on when it died."""
        row = int(self._rows[worker, 0])
        return None if row == _IDLE else row

    def overdue(self, worker: int, *, seconds: float) -> int | None:
        """The video that `worker` has been on for longer than `seconds`, if it is on one."""
        row = self.row(worker)
        late = time.monotonic_ns() - int(self._rows[worker, 1]) > seconds * 1e9
        return row if late else None

    @property
    def _rows(self) -> NDArray[np.int64]:
        return self._memory.array.view(np.int64).reshape(-1, 2)  # (workers, 2)


def work(
    reader: SampleReader, connection: Connection, notes: Notes, worker: int, limits: WorkerLimits
) -> None:
    """Answers requests until the parent closes the connection, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group; the parent decides.
    torch.set_num_threads(1)
    limit_private_memory(limits.memory_bytes)

    def watch(row: int) -> None:
        notes.begin(worker, row)
        # With the parent gone and a decoder that holds the GIL, only the kernel can end this.
        signal.alarm(math.ceil(2 * limits.sample_seconds))

    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            request: Request = connection.recv()
            try:
                samples, bad = reader.read(request.keys, watch)
                packed = pack(samples) if samples else None
            except Exception as error:
                _give_up(error, connection)
            signal.alarm(0)
            notes.idle(worker)
            connection.send(Answer(request.ticket, packed.layout if packed else None, bad))
            if packed:
                send_handle(connection, packed.memory.descriptor, None)


def _give_up(error: Exception, connection: Connection) -> NoReturn:
    """Ends the process: by its code where memory ran out, else with the error for the parent."""
    if isinstance(error, MemoryError) or _TORCH_OUT_OF_MEMORY in str(error):
        os._exit(OUT_OF_MEMORY)
    error.add_note(f"raised in a loader process:\n{traceback.format_exc()}")
    connection.send(error)
    raise SystemExit
