"""Running functions on unknown input in child processes of limited memory and time.

Decoders crash, hang and eat memory on files that mean to or are merely broken. A child that does is
killed and replaced; whoever asked gets a `DataError`. Children are plain programs that import
neither torch nor the caller's main module, so that a loader's worker may start them too.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Pipe, wait
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from cmaev.data.errors import DataError
from cmaev_spec import lifeline

Argument = TypeVar("Argument")
Result = TypeVar("Result")

MEMORY_BYTES: Final = 2 << 30
SECONDS: Final = 300.0
_START_SECONDS: Final = 120.0


def run_limited(
    function: Callable[[Argument], Result],
    argument: Argument,
    *,
    memory: int = MEMORY_BYTES,
    seconds: float = SECONDS,
) -> Result:
    """Calls `function(argument)` in a child of its own; see `LimitedPool` for many calls.

    Raises:
        DataError: that the function raised, or that says which limit it broke or how it crashed.
        RuntimeError: for any other exception of the function, with its traceback.
    """
    with LimitedPool(1, memory=memory, seconds=seconds) as pool:
        return pool.run(function, argument)


class LimitedPool:
    """Children that each run one function at a time and stay warm in between.

    A pool belongs to one thread.
    """

    def __init__(
        self,
        workers: int,
        *,
        memory: int = MEMORY_BYTES,
        seconds: float = SECONDS,
        preload: Sequence[str] = (),
    ) -> None:
        """Starts nothing yet.

        Args:
            workers: how many children `map` uses at most.
            memory: bytes that a call may add to the address space of its child.
            seconds: how long a call may take, by the clock.
            preload: modules to import first, so that they do not count against a call.
        """
        assert workers > 0
        self._workers, self._memory, self._seconds = workers, memory, seconds
        self._preload = tuple(preload)
        self._idle: list[_Child] = []
        self._busy: list[_Child] = []

    def run(self, function: Callable[[Argument], Result], argument: Argument) -> Result:
        """Calls `function`, which must be importable by name, as `run_limited` does."""
        _, outcome = next(self.map(function, [argument]))
        if isinstance(outcome, DataError):
            raise outcome
        return outcome

    def map(
        self, function: Callable[[Argument], Result], arguments: Iterable[Argument]
    ) -> Iterator[tuple[Argument, Result | DataError]]:
        """Calls `function` with each argument; gives (argument, outcome) as they come.

        Raises:
            RuntimeError: for any exception of the function that is no `DataError`.
        """
        waiting = iter(arguments)
        try:
            while True:
                while len(self._busy) < self._workers:
                    try:
                        argument = next(waiting)
                    except StopIteration:
                        break
                    self._start(function, argument)
                if not self._busy:
                    return
                for child in self._ready():
                    self._busy.remove(child)
                    try:
                        outcome = child.outcome()
                    finally:
                        if child.alive:
                            self._idle.append(child)
                    yield child.argument, outcome
        finally:
            for child in self._busy:
                child.close()
            self._busy.clear()

    def close(self) -> None:
        """Ends all children."""
        for child in (*self._idle, *self._busy):
            child.close()
        self._idle.clear()
        self._busy.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, function: Callable[[Argument], Any], argument: Argument) -> None:
        child = self._idle.pop() if self._idle else self._new_child()
        self._busy.append(child)
        child.call(function, argument)

    def _new_child(self) -> "_Child":
        return _Child(self._memory, self._seconds, self._preload)

    def _ready(self) -> "list[_Child]":
        """Children that answered, died or are out of time."""
        left = min(child.deadline for child in self._busy) - time.monotonic()
        answered = wait([child.connection for child in self._busy], timeout=max(left, 0))
        now = time.monotonic()
        return [
            child for child in self._busy if child.connection in answered or child.deadline <= now
        ]


class _Child:
    """One child process and the call that it is busy with."""

    def __init__(self, memory: int, seconds: float, preload: Sequence[str]) -> None:
        self._memory, self._seconds = memory, seconds
        self.connection, theirs = Pipe()
        program = [sys.executable, "-m", "cmaev.data.sandbox_child"]
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = lifeline.spawn(
            [*program, str(theirs.fileno()), *preload],
            env={**os.environ, **threads},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.alive = True
        self._wait_for_start()

    def call(self, function: Callable[[Argument], Any], argument: Argument) -> None:
        """Sends a call; if the child died while it was idle, the outcome will tell."""
        self.argument: Any = argument
        self.deadline = time.monotonic() + self._seconds
        with suppress(OSError):
            self.connection.send((function, argument, self._memory, self._seconds))

    def outcome(self) -> Any:
        """What the function returned, or the `DataError` that stands for what went wrong."""
        if not self.connection.poll():
            self.close()
            return self._too_long()
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            return self._crash()
        if kind == "error":
            self.close()
            raise RuntimeError(f"a function failed in its limited process:\n{value}")
        return value

    def close(self) -> None:
        """Ends the child."""
        self.alive = False
        self._process.close()
        self.connection.close()

    def _wait_for_start(self) -> None:
        """The time that it takes to start is not counted against the first call."""
        with suppress(EOFError):  # it is gone: the same as one that does not answer
            if self.connection.poll(_START_SECONDS):
                self.connection.recv()
                return
        self.close()
        raise RuntimeError("a limited process does not start; is cmaev importable there?")

    def _crash(self) -> DataError:
        code = self._process.process.wait()
        self.close()
        if code == -signal.SIGXCPU:
            return self._too_long()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return DataError(f"it crashed the decoder ({how}); the file is damaged: encode it again")

    def _too_long(self) -> DataError:
        return DataError(
            f"it took longer than {self._seconds:g} seconds to decode; cut it, scale it down, "
            "or allow more"
        )
