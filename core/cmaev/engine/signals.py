"""Stopping on request: SIGTERM or SIGINT asks, the loop saves a checkpoint and ends."""

import signal
from types import FrameType


class StopRequest:
    """A flag that SIGTERM and SIGINT raise; a second signal kills at once."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Takes over both signals; only possible in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)
