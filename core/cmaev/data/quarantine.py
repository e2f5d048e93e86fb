"""Bad videos of a run: known, counted, written down, and too many of them stop it.

What a checkpoint holds is what was met up to its step, in the order of the batches, so that a
resumed run goes past the same videos. `known` may be ahead of that: loader processes work ahead.
"""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from cmaev.data.errors import BadVideo
from cmaev_spec.exits import BadInput
from cmaev_spec.files import write_atomic

_SHOWN: Final = 10


class Quarantine:
    """The bad videos of one index."""

    def __init__(
        self, *, videos: int, max_share: float | None = None, path: Path | None = None
    ) -> None:
        """Knows no bad videos yet.

        Args:
            videos: rows of the index.
            max_share: share of them that may be bad; at least one may, unless it is 0. None: all.
            path: csv file that is kept up to date; none in processes that do not write.
        """
        self._videos, self._share, self._path = videos, max_share, path
        self.known: dict[int, BadVideo] = {}
        """By row: what is not worth another try."""
        self._met: dict[int, BadVideo] = {}
        self._news: list[BadVideo] = []

    def __len__(self) -> int:
        """Bad videos met so far."""
        return len(self._met)

    @property
    def most(self) -> int:
        """Bad videos that are put up with."""
        if self._share is None:
            return self._videos
        return max(math.floor(self._share * self._videos), 1) if self._share else 0

    def know(self, video: BadVideo) -> None:
        """Has a video passed over from now on."""
        self.known.setdefault(video.row, video)

    def meet(self, found: Iterable[BadVideo]) -> None:
        """Counts the bad videos of a batch that is about to be used.

        Raises:
            BadInput: if there are too many.
        """
        fresh = {video.row: video for video in found if video.row not in self._met}
        if not fresh:
            return
        self._met |= fresh
        self._news += fresh.values()
        for video in fresh.values():
            self.know(video)
        self._write()
        if len(self) > self.most:
            raise BadInput(self._too_many())

    def take_news(self) -> list[BadVideo]:
        """What was met since the last time."""
        news, self._news = self._news, []
        return news

    def clear(self) -> None:
        """Begins a run anew."""
        self.load_state_dict({"videos": self._videos, "bad": []})

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: plain values."""
        return {"videos": self._videos, "bad": [tuple(video) for video in self.listed()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to what a checkpoint knew.

        Raises:
            BadInput: if the index has another length than it had.
        """
        if state["videos"] != self._videos:
            raise BadInput(
                f"data.index: it lists {self._videos} videos, and {state['videos']} when this run "
                "began; put the index back as it was, or start a new run"
            )
        self._met = {row: BadVideo(row, *rest) for row, *rest in state["bad"]}
        self.known, self._news = dict(self._met), []
        self._write()

    def listed(self) -> list[BadVideo]:
        """All that were met, in the order of the index."""
        return [self._met[row] for row in sorted(self._met)]

    def summary(self) -> str:
        """The bad videos and their reasons; the first few where there are many."""
        lines = [f"{video.where}: {video.path}: {video.reason}" for video in self.listed()]
        more = len(lines) - _SHOWN
        return "\n".join(lines[:_SHOWN] + ([f"and {more} more"] if more > 0 else []))

    def _too_many(self) -> str:
        return (
            f"data.max_bad_share: {len(self)} of {self._videos} videos cannot be read, and "
            f"{self.most} may be; repair or remove them, see `cmaev data check`:\n{self.summary()}"
        )

    def _write(self) -> None:
        if self._path is None:
            return
        if not self._met:
            self._path.unlink(missing_ok=True)
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["where", "path", "reason"])
        writer.writerows(video[1:] for video in self.listed())
        write_atomic(self._path, text.getvalue())
