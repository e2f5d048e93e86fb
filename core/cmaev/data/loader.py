"""Batches of an epoch, from any position on, the same whatever the number of loader processes.

The order of an epoch depends on (seed, epoch) alone. A global batch is `batch_size * world_size`
samples of it, dealt to the ranks in turn: no sample is given twice, and none is lost unless
`drop_last` cuts an incomplete global batch.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cmaev.data.errors import DataError
from cmaev.data.views import Sample, ViewDataset

Batch = dict[str, Tensor]
_Key = tuple[int, int]

# Beside the streams of samples, default_rng([seed, epoch, index]): no index is as large.
_ORDER_STREAM: Final = 2**32 - 1


class EpochLoader:
    """Loads batches of a view dataset in this process or in `workers` processes.

    Workers start with the first epoch and stay until `close`, or until this process is gone.
    """

    def __init__(
        self,
        dataset: ViewDataset,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
    ) -> None:
        """Plans nothing and starts nothing yet.

        Args:
            dataset: gives the samples.
            batch_size: samples of a batch of this rank.
            seed: decides the order.
            shuffle: another order in each epoch; that of the index otherwise.
            drop_last: leaves out the last global batch if it is incomplete.
            rank: number of this process, of `world_size`.
            world_size: processes that share the epoch.
            workers: loader processes; 0 loads in this one.
        """
        assert batch_size > 0
        assert 0 <= rank < world_size
        self._count = len(dataset)
        self._batch_size, self._seed = batch_size, seed
        self._shuffle, self._drop_last = shuffle, drop_last
        self._rank, self._world_size = rank, world_size
        self._plan = _Plan()
        self._loader = _build_loader(dataset, self._plan, workers)

    def __len__(self) -> int:
        """Batches that this rank gets in an epoch."""
        return len(self._batches(np.arange(self._count)))

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """Batches of `epoch`, without the first `start_batch`, which are not decoded either.

        One epoch at a time: asking for another ends the one before.

        Raises:
            DataError: when a batch has a broken video.
        """
        batches = self._batches(self._order(epoch))[start_batch:]
        self._plan.keys = [[(epoch, int(index)) for index in batch] for batch in batches]
        for batch in self._loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch

    def close(self) -> None:
        """Ends the workers; a later epoch starts new ones."""
        self._loader._iterator = None

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self._shuffle:
            return np.arange(self._count)
        rng = np.random.default_rng([self._seed, epoch, _ORDER_STREAM])
        return rng.permutation(self._count)

    def _batches(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """What this rank gets of the samples in `order`."""
        together = self._batch_size * self._world_size
        end = len(order) - len(order) % together if self._drop_last else len(order)
        dealt = [
            order[start : start + together][self._rank :: self._world_size]
            for start in range(0, end, together)
        ]
        return [batch for batch in dealt if len(batch)]


class _Plan:
    """The batches of (epoch, index) to load next; a batch sampler that can be told."""

    def __init__(self) -> None:
        self.keys: list[list[_Key]] = []

    def __iter__(self) -> Iterator[list[_Key]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Samples(Dataset[Sample | DataError]):
    """Looks samples up by (epoch, index); hands errors on as values, whole and unwrapped."""

    def __init__(self, dataset: ViewDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: _Key) -> Sample | DataError:
        epoch, index = key
        try:
            return self._dataset.sample(index, epoch=epoch)
        except DataError as error:
            return error


def collate(samples: Sequence[Sample | DataError]) -> Batch | DataError:
    """Stacks samples into tensors (B, …); the first error instead, if there is one."""
    whole: list[Sample] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        whole.append(sample)
    return {
        name: torch.from_numpy(np.stack([sample[name] for sample in whole])) for name in whole[0]
    }


def _build_loader(
    dataset: ViewDataset, plan: _Plan, workers: int
) -> "DataLoader[Sample | DataError]":
    context = None
    if workers:
        # A fork after autograd has run hangs; the fork server forks from a process that has not.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["cmaev.data.views"])
    return DataLoader(
        _Samples(dataset),
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=collate,
        multiprocessing_context=context,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: loading leaves the random state of training alone.
        generator=torch.Generator(),
    )


def _start_worker(_number: int) -> None:
    """Ctrl-C reaches the whole group; the main process decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    """Workers and their fork server keep each other alive, so each watches the main process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
