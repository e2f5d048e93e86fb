"""Which videos make the batches of an epoch, and which stand in for bad ones.

The order of an epoch depends on (seed, epoch) alone. A global batch is `batch_size * world_size`
samples of it, dealt to the ranks in turn: no sample is given twice, and none is lost unless
`drop_last` cuts an incomplete global batch. A position in an epoch is the number of samples that
all ranks together have had, so it means the same for any number of ranks.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Beside the streams of samples, default_rng([seed, epoch, index]): no index is as large.
_ORDER_STREAM: Final = 2**32 - 1
# With a tenth of all videos bad, one sample in 10**20 would need more.
MAX_ATTEMPTS: Final = 20


# Epochs of stand-ins: no run has as many, so they show views of their own.
_STAND_IN_EPOCHS: Final = 1_000_001


class Key(NamedTuple):
    """A sample: the video at `row`, or what `attempt` draws where that is bad."""

    epoch: int
    row: int
    attempt: int = 0

    @property
    def random_epoch(self) -> int:
        """What the views are drawn from, together with seed and row."""
        return self.epoch + self.attempt * _STAND_IN_EPOCHS


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """The order of every epoch, and this rank's part of it.

    Attributes:
        videos: rows of the index.
        batch_size: samples of a batch of one rank.
        seed: decides the order.
        shuffle: another order in each epoch; that of the index otherwise.
        drop_last: leaves out the last global batch if it is incomplete.
        rank: number of this process, of `world_size`.
        world_size: processes that share the epoch.
    """

    videos: int
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        assert self.batch_size > 0
        assert 0 <= self.rank < self.world_size

    @property
    def together(self) -> int:
        """Samples of a global batch."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches that this rank gets in an epoch."""
        return len(self._deal(np.arange(self.videos), 0))

    def batches(self, epoch: int, start: int = 0) -> list[list[Key]]:
        """What this rank gets in `epoch` after the first `start` samples of all ranks."""
        assert start % self.together == 0, f"{start} is not between batches of {self.together}"
        dealt = self._deal(self._permutation(epoch), start)
        return [[Key(epoch, int(row)) for row in batch] for batch in dealt]

    def video(self, key: Key) -> int:
        """The row that a sample is read from.

        It depends on (seed, epoch, row, attempt) alone; attempt 0 is the video itself.
        """
        if key.attempt == 0:
            return key.row
        rng = np.random.default_rng([self.seed, key.epoch, key.row, key.attempt])
        return int(rng.integers(self.videos))

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.videos)
        return np.random.default_rng([self.seed, epoch, _ORDER_STREAM]).permutation(self.videos)

    def _deal(self, order: NDArray[np.int64], start: int) -> list[NDArray[np.int64]]:
        end = len(order) - len(order) % self.together if self.drop_last else len(order)
        dealt = [
            order[first : first + self.together][self.rank :: self.world_size]
            for first in range(start, end, self.together)
        ]
        return [batch for batch in dealt if len(batch)]
