"""Loader processes that may hang, crash or be killed without a batch being lost or changed.

PyTorch's DataLoader cannot do that: its workers share one queue, which a killed one can leave
locked, and their deaths raise in the middle of whatever the main thread is doing. Here each process
has a connection of its own. When one dies its batches go to a successor; a video that killed it is
known as bad from then on.
"""

import contextlib
import logging
import multiprocessing
import signal
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import recv_handle
from typing import Final, Protocol

from cmaev.data.batch import Batch, PackedBatch, collate
from cmaev.data.errors import BadVideo
from cmaev.data.loader_worker import OUT_OF_MEMORY, Answer, Notes, Request, WorkerLimits, work
from cmaev.data.memory import SharedBytes
from cmaev.data.order import Key
from cmaev.data.samples import SampleReader

logger = logging.getLogger(__name__)

# A process that dies this often for the same video, in a fresh process each time, dies of it.
STRIKES: Final = 2
# Deaths without a batch or a bad video between them.
_MOST_IDLE_DEATHS: Final = 5
_TICK_SECONDS: Final = 0.5
_END_SECONDS: Final = 10.0
PRELOAD: Final = ["cmaev.data.loader_worker", "cmaev.data.views", "cmaev.data.decode.pyav"]

Resolve = Callable[[Sequence[Key]], tuple[list[Key], list[BadVideo]]]
"""Leads keys past videos that are known as bad; also returns those."""
Pin = Callable[[Batch], Batch]


@dataclass(frozen=True, eq=False)
class Loaded:
    """What came of the keys of a batch.

    Attributes:
        batch: the samples; None where every one is left out.
        bad: the bad videos among their candidates.
    """

    batch: Batch | None
    bad: list[BadVideo]


class Source(Protocol):
    """Reads batches, in this process or in others."""

    @property
    def pids(self) -> list[int]:
        """Ids of the other processes."""
        ...

    def run(self, plan: Sequence[Sequence[Key]], resolve: Resolve) -> Iterator[Loaded]:
        """The batches of `plan`, in that order."""
        ...

    def close(self) -> None:
        """Ends what was started; a later run starts it again."""
        ...


class InProcess:
    """Reads in this process, where nothing can stop a decoder that hangs."""

    def __init__(self, reader: SampleReader, *, pin: Pin | None = None) -> None:
        self._reader, self._pin = reader, pin or (lambda batch: batch)

    def run(self, plan: Sequence[Sequence[Key]], resolve: Resolve) -> Iterator[Loaded]:
        """See `Source.run`."""
        for keys in plan:
            resolved, skipped = resolve(keys)
            samples, bad = self._reader.read(resolved, lambda _row: None)
            yield Loaded(self._pin(collate(samples)) if samples else None, skipped + bad)

    @property
    def pids(self) -> list[int]:
        """There are none."""
        return []

    def close(self) -> None:
        """Nothing is held."""


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    tickets: deque[int] = field(default_factory=deque)
    overdue: int | None = None
    """The video it was killed for."""


class ProcessPool:
    """Reads in processes that start with the first batch and stay until `close`."""

    def __init__(
        self,
        reader: SampleReader,
        *,
        workers: int,
        prefetch: int,
        limits: WorkerLimits,
        on_fatal: Callable[[int, str], None],
        pin: Pin | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            reader: travels to every process.
            workers: how many.
            prefetch: batches that each works ahead.
            limits: what each may take.
            on_fatal: told the row of a video that ended its process, and why; `resolve` has to
                know from then on.
            pin: moves batches to page-locked memory, in a thread of its own.
        """
        self._reader, self._size, self._limits = reader, workers, limits
        self._window, self._on_fatal = workers * prefetch, on_fatal
        self._pin, self._pinning = pin, ThreadPoolExecutor(1, thread_name_prefix="pin")
        # A fork after autograd has run hangs; the fork server forks from a process that has not.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._notes = Notes(workers)
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _end, self._workers)
        self._strikes: Counter[int] = Counter()
        self._idle_deaths = 0
        self._end_ticket = 0

    def run(self, plan: Sequence[Sequence[Key]], resolve: Resolve) -> Iterator[Loaded]:
        """See `Source.run`. One run at a time: a new one drops what an earlier one left."""
        first = self._end_ticket
        self._begin(plan, resolve, first=first)
        for ticket in range(first, self._end_ticket):
            assert first == self._first, "another run has begun"
            self._taken = ticket
            self._feed()
            while ticket not in self._done:
                self._wait()
            batch, bad = self._done.pop(ticket)
            yield Loaded(batch(), self._skipped.pop(ticket) + bad)

    def close(self) -> None:
        """Kills the processes; they hold nothing of value."""
        _end(self._workers)

    @property
    def pids(self) -> list[int]:
        """See `Source.pids`; by the place of the worker."""
        return [worker.process.pid or 0 for worker in self._workers]

    def _begin(self, plan: Sequence[Sequence[Key]], resolve: Resolve, *, first: int) -> None:
        self._plan, self._resolve = plan, resolve
        self._first = self._taken = self._next = first
        self._end_ticket = first + len(plan)
        self._done: dict[int, tuple[Callable[[], Batch | None], list[BadVideo]]] = {}
        self._skipped: dict[int, list[BadVideo]] = {}

    def _feed(self) -> None:
        """Hands out the next batches, up to `prefetch` per process ahead of the one taken."""
        while len(self._workers) < self._size:
            self._workers.append(self._start(len(self._workers)))
        while self._next < min(self._taken + self._window, self._end_ticket):
            place = min(range(self._size), key=lambda k: len(self._workers[k].tickets))
            self._send(self._workers[place], self._next)
            self._next += 1

    def _start(self, place: int) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=work,
            args=(self._reader, there, self._notes, place, self._limits),
            name=f"loader-{place}",
            daemon=True,
        )
        self._notes.idle(place)
        process.start()
        there.close()  # Only the process has it now, so its death ends the connection.
        return _Worker(process, here)

    def _send(self, worker: _Worker, ticket: int) -> None:
        keys, self._skipped[ticket] = self._resolve(self._plan[ticket - self._first])
        worker.tickets.append(ticket)
        # A dead process is found when its answer is waited for.
        with contextlib.suppress(ConnectionError):
            worker.connection.send(Request(ticket, keys))

    def _wait(self) -> None:
        """Takes what has arrived, or waits for it; finds processes that died or hang."""
        by_connection = {worker.connection: k for k, worker in enumerate(self._workers)}
        for connection in wait(list(by_connection), timeout=_TICK_SECONDS):
            assert isinstance(connection, Connection)
            place = by_connection[connection]
            try:
                self._receive(self._workers[place])
            except (EOFError, OSError):
                self._replace(place)
        for place, worker in enumerate(self._workers):
            row = self._notes.overdue(place, seconds=self._limits.sample_seconds)
            if row is not None and worker.overdue is None:
                worker.overdue = row
                worker.process.kill()

    def _receive(self, worker: _Worker) -> None:
        answer: Answer | Exception = worker.connection.recv()
        if isinstance(answer, Exception):
            self.close()
            raise answer
        batch = None
        if answer.layout is not None:
            memory = SharedBytes.adopt(recv_handle(worker.connection))
            batch = PackedBatch(memory, answer.layout).batch()
        worker.tickets.remove(answer.ticket)
        self._idle_deaths = 0
        if answer.ticket >= self._first:
            self._done[answer.ticket] = self._pinned(batch), list(answer.bad)

    def _pinned(self, batch: Batch | None) -> Callable[[], Batch | None]:
        """Hands out the batch once it is pinned, where it is to be."""
        if batch is None or self._pin is None:
            return lambda: batch
        return self._pinning.submit(self._pin, batch).result

    def _replace(self, place: int) -> None:
        """Starts a successor for a dead process, which takes over its batches."""
        dead = self._workers[place]
        dead.process.join(_END_SECONDS)
        row = self._notes.row(place)
        self._blame(dead, row)
        dead.connection.close()
        self._workers[place] = self._start(place)
        for ticket in dead.tickets:
            if ticket >= self._first:
                self._send(self._workers[place], ticket)

    def _blame(self, dead: _Worker, row: int | None) -> None:
        """Decides whether a video is at fault for the death of a process."""
        code, cause = dead.process.exitcode, _cause(dead.process.exitcode)
        logger.warning("a loader process ended: %s; another one takes over", cause)
        if row is None:
            self._idle_deaths += 1
            if self._idle_deaths > _MOST_IDLE_DEATHS:
                self.close()
                raise RuntimeError(
                    f"loader processes keep ending before they read anything: {cause}; lower "
                    "data.workers, or give the machine more memory"
                )
            return
        if dead.overdue not in (None, row):  # It got on just as it was killed.
            return
        # The first time may be the machine's fault: it stood still, or somebody killed the process.
        self._strikes[row] += 1
        if self._strikes[row] < STRIKES:
            return
        if dead.overdue is not None:
            cause = f"reading it took longer than {self._limits.sample_seconds:g} seconds"
        elif code == OUT_OF_MEMORY:
            cause = f"reading it takes over {self._limits.memory_bytes / 2**30:g} GiB of memory"
        self._on_fatal(row, f"it ended {STRIKES} loader processes: {cause}")


def _cause(code: int | None) -> str:
    if code == OUT_OF_MEMORY:
        return "it ran out of the memory it may have"
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _end(workers: list[_Worker]) -> None:
    """Kills and reaps; a process that the kernel cannot end is left behind."""
    for worker in workers:
        worker.process.kill()
        worker.connection.close()
    for worker in workers:
        worker.process.join(_END_SECONDS)
    workers.clear()
