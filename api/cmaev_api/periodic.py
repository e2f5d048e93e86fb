"""Background work: a function called again and again in a thread of its own."""

import threading
from collections.abc import Callable

import structlog

STOP_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Periodic:
    """Calls `work` every `seconds`; a failure is logged and counted, and the next round comes."""

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        *,
        seconds: float,
        on_failure: Callable[[], None],
    ) -> None:
        self._name = name
        self._work = work
        self._seconds = seconds
        self._on_failure = on_failure
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins with a first round at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the round under way, which is not waited for beyond a few seconds."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                self._work()
            except Exception:  # the one place where anything may have gone wrong
                log.exception("round_failed", work=self._name)
                self._on_failure()
            if self._stop.wait(self._seconds):
                return
