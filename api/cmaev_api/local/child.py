"""A service as a child process: started, started again when it dies, stopped."""

import os
import signal
import time
from collections import deque

from cmaev_api.local.services import Service, environment_of
from cmaev_spec.lifeline import Child, spawn

RESTARTS_PER_MINUTE = 5
FIRST_PAUSE_SECONDS = 0.5
_TAIL_BYTES = 4096
_TAIL_LINES = 20


class ServiceFailedError(RuntimeError):
    """A service did not start, or keeps dying; the message has the end of its log."""


class ServiceProcess:
    """The process of one service, and the record of its deaths."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._child: Child | None = None
        self._deaths: deque[float] = deque(maxlen=RESTARTS_PER_MINUTE + 1)
        self._start_at: float | None = None
        self.started_at = 0.0

    @property
    def pid(self) -> int | None:
        """Process id, or None while it is down."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Starts the process; what it prints is appended to its log."""
        with open(self.service.log, "ab") as log:
            self._child = spawn(
                self.service.command, env=environment_of(self.service), stdout=log, stderr=log
            )
        self._start_at = None
        self.started_at = time.monotonic()

    def ended(self) -> int | None:
        """The exit code if the process has ended by itself, after which it is down."""
        if self._child is None:
            return None
        code = self._child.process.poll()
        if code is not None:
            self._child.close()
            self._child = None
        return code

    def watch(self) -> str | None:
        """Starts the process again after its death, with growing pauses.

        Returns:
            A line for people when something happened.

        Raises:
            ServiceFailedError: if it died too often within a minute.
        """
        now = time.monotonic()
        if (code := self.ended()) is not None:
            self._deaths.append(now)
            recent = sum(1 for death in self._deaths if death > now - 60.0)
            if recent > RESTARTS_PER_MINUTE:
                raise ServiceFailedError(
                    f"{self.service.name} died {recent} times within a minute\n{self.log_tail()}"
                )
            pause = FIRST_PAUSE_SECONDS * 2.0 ** (recent - 1)
            self._start_at = now + pause
            return f"{self.service.name} ended ({describe(code)}); starting it again in {pause:g} s"
        if self._start_at is not None and now >= self._start_at:
            self.start()
            return f"{self.service.name} started again"
        return None

    def ask_to_stop(self) -> None:
        """Sends SIGTERM."""
        if self._child is not None:
            self._child.process.terminate()

    def kill(self) -> None:
        """Ends the process and its group for good."""
        self._start_at = None
        if self._child is not None:
            self._child.close()
            self._child = None

    def log_tail(self) -> str:
        """The end of the log, and where to read more."""
        with open(self.service.log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join([f"--- {self.service.log}", *lines])


def describe(code: int) -> str:
    """An exit code in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
