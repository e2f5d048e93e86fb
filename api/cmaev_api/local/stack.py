"""The order of things: start services one after the other, watch them, stop them in reverse."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from cmaev_api.local.child import ServiceFailedError, ServiceProcess, describe
from cmaev_api.local.services import Service
from cmaev_api.local.state import StateDir

_TICK_SECONDS = 0.2

Say = Callable[[str], None]


class StopRequestedError(Exception):
    """A signal asked the stack to end while it was still starting."""

    def __init__(self) -> None:
        super().__init__("stopped before the start was complete")


class Stack:
    """Services that live and die together.

    Args:
        state: the locked state folder.
        stages: services in starting order; those of one stage start together.
        url: address of the control plane.
        say: tells people what happened, one line at a time.
        hint: tells people what is waited for; each replaces the one before.
    """

    def __init__(
        self,
        state: StateDir,
        *,
        stages: Sequence[Sequence[Service]],
        url: str,
        say: Say,
        hint: Say = lambda _: None,
    ) -> None:
        self._state = state
        self._stages = [[ServiceProcess(service) for service in stage] for stage in stages]
        self._url = url
        self._say = say
        self._hint = hint
        self._signals = 0
        self._ready = False

    @property
    def _processes(self) -> list[ServiceProcess]:
        return [process for stage in self._stages for process in stage]

    def run(self, *, on_ready: Callable[[], None]) -> None:
        """Starts everything, calls `on_ready`, watches until SIGINT or SIGTERM, stops everything.

        Raises:
            ServiceFailedError: if a service does not start or keeps dying; all are stopped then.
            StopRequestedError: if a signal came before all were ready; all are stopped then.
        """
        with self._listening():
            try:
                for stage in self._stages:
                    self._start(stage)
                self._ready = True
                self._publish()
                on_ready()
                self._watch()
            finally:
                self._stop()

    def _start(self, stage: Sequence[ServiceProcess]) -> None:
        for process in stage:
            process.start()
        self._publish()
        for process in stage:
            self._wait_until_ready(process)

    def _wait_until_ready(self, process: ServiceProcess) -> None:
        service = process.service
        while (missing := service.check()) is not None:
            self._stop_if_asked()
            self._hint(f"waiting for {service.name}: {missing}")
            if (code := process.ended()) is not None:
                raise ServiceFailedError(
                    f"{service.name} ended while starting ({describe(code)})\n{process.log_tail()}"
                )
            if time.monotonic() > process.started_at + service.start_seconds:
                raise ServiceFailedError(
                    f"{service.name} was not ready within {service.start_seconds:g} s: "
                    f"{missing}\n{process.log_tail()}"
                )
            time.sleep(_TICK_SECONDS)
        self._stop_if_asked()
        address = f"  {service.address}" if service.address else ""
        seconds = time.monotonic() - process.started_at
        self._say(f"  {service.name:<9} ready in {seconds:4.1f} s{address}")

    def _watch(self) -> None:
        while not self._signals:
            for process in self._processes:
                if (line := process.watch()) is not None:
                    self._say(line)
                    self._publish()
            time.sleep(_TICK_SECONDS)

    def _stop(self) -> None:
        """Stops stage by stage, last first, so that runs can still report their checkpoint."""
        for stage in reversed(self._stages):
            for process in stage:
                process.ask_to_stop()
            deadline = time.monotonic() + max(item.service.stop_seconds for item in stage)
            while [process for process in stage if self._lives(process)]:
                if time.monotonic() > deadline or self._signals > 1:
                    break
                time.sleep(0.05)
            hurried = self._signals > 1
            for process in stage:
                if process.pid is not None and not hurried:
                    self._say(f"{process.service.name} did not stop in time and was killed")
                process.kill()
        if self._signals > 1:
            self._say("killed on request")

    def _lives(self, process: ServiceProcess) -> bool:
        process.ended()
        return process.pid is not None

    def _stop_if_asked(self) -> None:
        if self._signals:
            raise StopRequestedError

    def _publish(self) -> None:
        self._state.write_stack(
            {
                "pid": os.getpid(),
                "ready": self._ready,
                "api": self._url,
                "services": {
                    process.service.name: {"pid": process.pid, "address": process.service.address}
                    for process in self._processes
                },
            }
        )

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Counts SIGINT and SIGTERM: the first asks for an orderly stop, the second hurries it."""

        def count(_number: int, _frame: FrameType | None) -> None:
            self._signals += 1

        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, count) for number in wanted}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
