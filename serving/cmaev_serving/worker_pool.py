"""The workers of one model: processes that are killed when they hang and replaced when they die."""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from cmaev_serving.problems import ServingError, cannot_load, timed_out, unavailable
from cmaev_serving.requests import WorkerReply, WorkerRequest
from cmaev_spec import lifeline

_BACKOFF_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
_LINE_LIMIT = 16 << 20
_logger = logging.getLogger(__name__)


class WorkerDiedError(Exception):
    """The process ended, or closed its socket."""


class NotTakenError(Exception):
    """The process ended before it took the request, so the request is not to blame."""


class Worker:
    """One worker process and the socket to it."""

    def __init__(
        self, child: lifeline.Child, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._child = child
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(
        cls, model: Path, *, environment: Mapping[str, str], log: IO[bytes], seconds: float
    ) -> "Worker":
        """Starts a process and waits until it has loaded its model.

        Raises:
            ServingError: if it cannot load the model.
            WorkerDiedError: if it ends instead.
            TimeoutError: if it takes longer than `seconds`.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            child = lifeline.spawn(
                [
                    *(sys.executable, "-m", "cmaev_serving.worker"),
                    *("--fd", str(theirs.fileno()), "--model", str(model)),
                ],
                env=environment,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=_LINE_LIMIT)
        worker = cls(child, reader, writer)
        try:
            async with asyncio.timeout(seconds):
                hello = await worker._receive()
        except BaseException:
            await worker.close()
            raise
        if hello.status != 200:
            await worker.close()
            raise cannot_load(hello.body)
        return worker

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._child.process.poll() is None and not self._reader.at_eof()

    async def ask(self, request: WorkerRequest) -> WorkerReply:
        """Sends a request and waits for its answer.

        Raises:
            NotTakenError: if the process ends before it takes the request.
            WorkerDiedError: if it ends before it answers.
        """
        try:
            self._writer.write(request.model_dump_json().encode() + b"\n")
            await self._writer.drain()
            await self._receive()
        except (ConnectionError, WorkerDiedError):
            raise NotTakenError from None
        return await self._receive()

    async def close(self) -> None:
        """Kills the process and waits for its end."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        await asyncio.to_thread(self._child.close)

    async def _receive(self) -> WorkerReply:
        try:
            line = await self._reader.readline()
        except ConnectionError:
            raise WorkerDiedError from None
        if not line.endswith(b"\n"):
            raise WorkerDiedError
        return WorkerReply.model_validate_json(line)


class WorkerPool:
    """A fixed number of workers of one model, kept up."""

    def __init__(
        self,
        model: Path,
        *,
        size: int,
        environment: Mapping[str, str],
        log: Path,
        timeout_seconds: float,
        startup_seconds: float,
    ) -> None:
        self._model = model
        self._size = size
        self._environment = environment
        self._log_path = log
        self._timeout = timeout_seconds
        self._startup = startup_seconds
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        self._workers: set[Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure = ""

    async def start(self) -> None:
        """Starts every worker; none is left running if one of them fails.

        Raises:
            ServingError: if the model cannot be loaded.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._size):
                    group.create_task(self._add())
        except* ServingError as errors:
            await self.close()
            raise errors.exceptions[0] from None
        except* (WorkerDiedError, TimeoutError):
            await self.close()
            raise unavailable("the workers of the model did not come up") from None

    @property
    def failure(self) -> str | None:
        """Why no worker is there at the moment; None if one is."""
        if any(worker.alive for worker in self._workers):
            return None
        return self._failure or "its workers are starting"

    async def ask(self, request: WorkerRequest) -> WorkerReply:
        """Gives a request to the next free worker.

        Raises:
            ServingError: 504 if it takes too long, 503 if the worker dies of it or none is free.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout
        while True:
            worker = await self._take(deadline)
            with contextlib.suppress(NotTakenError):
                return await self._ask(worker, request)

    async def close(self) -> None:
        """Ends all workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.close() for worker in self._workers))
        self._workers.clear()

    async def _ask(self, worker: Worker, request: WorkerRequest) -> WorkerReply:
        try:
            async with asyncio.timeout(self._timeout):
                reply = await worker.ask(request)
        except TimeoutError:
            self._replace(worker)
            raise timed_out(self._timeout) from None
        except WorkerDiedError:
            self._replace(worker)
            raise unavailable("the worker died while it read the video") from None
        except BaseException:
            self._replace(worker)
            raise
        self._idle.put_nowait(worker)
        return reply

    async def _take(self, deadline: float) -> Worker:
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    worker = await self._idle.get()
                    if worker.alive:
                        return worker
                    self._replace(worker)
        except TimeoutError:
            raise unavailable("no worker of the model became free in time") from None

    async def _add(self) -> None:
        with open(self._log_path, "ab") as log:
            worker = await Worker.start(
                self._model, environment=self._environment, log=log, seconds=self._startup
            )
        self._workers.add(worker)
        self._idle.put_nowait(worker)

    def _replace(self, worker: Worker) -> None:
        self._workers.discard(worker)
        task = asyncio.create_task(self._replace_until_up(worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace_until_up(self, worker: Worker) -> None:
        _logger.warning("worker %d of %s is replaced", worker.pid, self._model.name)
        await worker.close()
        attempt = 0
        while True:
            await asyncio.sleep(_BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)])
            attempt += 1
            try:
                await self._add()
            except (ServingError, WorkerDiedError, TimeoutError, OSError) as error:
                self._failure = f"its workers do not come up: {error or type(error).__name__}"
                _logger.error("%s: %s", self._model.name, self._failure)
            else:
                self._failure = ""
                return
