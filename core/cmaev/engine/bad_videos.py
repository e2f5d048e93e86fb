"""What the processes of a run tell each other, and people, about bad videos."""

import logging
from typing import Final

from cmaev.data.quarantine import Quarantine
from cmaev.engine.distributed import World
from cmaev.engine.events import EventLog

logger = logging.getLogger(__name__)

_MOST_EVENTS: Final = 10


class BadVideoReport:
    """Keeps the quarantines of all processes the same, and reports what is new in them."""

    def __init__(self, quarantine: Quarantine, *, world: World, events: EventLog) -> None:
        self._quarantine, self._world, self._events = quarantine, world, events

    def share(self) -> int:
        """Bad videos that any process met so far; every process has to ask.

        Raises:
            BadInput: in every process, when there are too many.
        """
        before = len(self._quarantine)
        news = self._quarantine.take_news()
        if self._world.any(bool(news)):
            met = [video for part in self._world.gather(news) for video in part]
            before -= len(news)
            for number, video in enumerate(sorted(set(met)), start=before + 1):
                self._tell(number, f"{video.where}: {video.path}: {video.reason}")
            self._quarantine.meet(met)
            self._quarantine.take_news()
        return len(self._quarantine)

    def _tell(self, number: int, message: str) -> None:
        logger.warning("bad video %d, another one stands in for it: %s", number, message)
        if number <= _MOST_EVENTS:
            self._events.warning(f"a bad video is replaced by another: {message}")
