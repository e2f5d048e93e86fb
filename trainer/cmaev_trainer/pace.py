"""Calls that repeat: at a steady pace while they are answered, backing off while they are not."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from cmaev_trainer.client import UnreachableError

log = structlog.get_logger(__name__)

LONGEST_PAUSE_SECONDS = 15.0

Result = TypeVar("Result")


class Pace:
    """When a call to the control plane is due.

    Args:
        what: what the call does, for the log.
        every: seconds between answered calls.
        first_after: seconds until the first call.
    """

    def __init__(self, what: str, *, every: float, first_after: float = 0.0) -> None:
        self._what = what
        self._every = every
        self._failures = 0
        self._next = time.monotonic() + first_after

    @property
    def due(self) -> bool:
        """Whether it is time for the call."""
        return time.monotonic() >= self._next

    def attempt(self, call: Callable[[], Result]) -> Result | None:
        """Makes the call; None if the control plane does not answer, which is logged once."""
        try:
            result = call()
        except UnreachableError as error:
            if self._failures == 0:
                log.warning("control plane unreachable", call=self._what, problem=str(error))
            self._failures += 1
            pause = min(LONGEST_PAUSE_SECONDS, 0.5 * 2.0 ** min(self._failures, 10))
            # Workers that lost the control plane together must not come back in step.
            self._next = time.monotonic() + pause * random.uniform(0.5, 1.0)
            return None
        if self._failures:
            log.info("control plane answers again", call=self._what, failures=self._failures)
        self._failures = 0
        self._next = time.monotonic() + self._every
        return result
