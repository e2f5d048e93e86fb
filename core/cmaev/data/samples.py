"""Samples, and how those of a batch are read: bad videos are found, others stand in for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cmaev.data.errors import BadVideo, BadVideoError
from cmaev.data.order import MAX_ATTEMPTS, EpochOrder, Key

Sample = dict[str, NDArray[np.uint8] | NDArray[np.bool_] | NDArray[np.int64] | NDArray[np.float32]]


class ViewDataset(Protocol):
    """What a loader reads from."""

    def __len__(self) -> int: ...

    def sample(self, index: int, *, epoch: int) -> Sample:
        """The sample of the video at `index` in `epoch`.

        Raises:
            BadVideoError: naming index file, line, path and reason.
        """
        ...


@dataclass(frozen=True, eq=False)
class SampleReader:
    """Looks samples up by their keys.

    Attributes:
        dataset: gives the samples.
        order: tells which video stands in for a bad one.
        replace: whether one does; the sample is left out otherwise.
    """

    dataset: ViewDataset
    order: EpochOrder
    replace: bool

    def read(
        self, keys: Sequence[Key], watch: Callable[[int], None]
    ) -> tuple[list[Sample], list[BadVideo]]:
        """The samples of a batch, and the bad videos met on the way.

        Args:
            keys: the samples wanted.
            watch: told each row before its video is opened.
        """
        bad: list[BadVideo] = []
        samples = [self._sample(key, watch, bad) for key in keys]
        return [sample for sample in samples if sample is not None], bad

    def _sample(self, key: Key, watch: Callable[[int], None], bad: list[BadVideo]) -> Sample | None:
        for attempt in self.attempts(key):
            row = self.order.video(attempt)
            watch(row)
            try:
                return self.dataset.sample(row, epoch=attempt.random_epoch)
            except BadVideoError as error:
                bad.append(error.video)
        return None

    def attempts(self, key: Key) -> list[Key]:
        """What may be read for a sample, from its own attempt on."""
        last = MAX_ATTEMPTS if self.replace else 1
        return [key._replace(attempt=attempt) for attempt in range(key.attempt, last)]
