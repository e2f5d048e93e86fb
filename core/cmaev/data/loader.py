"""Batches of an epoch, from any position on, the same whatever the number of loader processes.

A video that cannot be read is replaced in training, by one drawn from (seed, epoch, row, attempt),
and left out and reported in evaluation.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import torch

from cmaev.data.batch import Batch
from cmaev.data.errors import BadVideo, DataError
from cmaev.data.index import VideoIndex
from cmaev.data.loader_pool import InProcess, Pin, ProcessPool, Source
from cmaev.data.loader_worker import WorkerLimits
from cmaev.data.order import MAX_ATTEMPTS, EpochOrder, Key
from cmaev.data.quarantine import Quarantine
from cmaev.data.samples import SampleReader, ViewDataset
from cmaev_spec.data import LoadingSpec

IN_PROCESS: Final = LoadingSpec()


class EpochLoader:
    """Loads batches of a view dataset in this process or in others.

    Processes start with the first epoch and stay until `close`, or until this process is gone.
    """

    def __init__(
        self,
        dataset: ViewDataset,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        replace_bad: bool = False,
        quarantine: Quarantine | None = None,
        index: VideoIndex | None = None,
        finish: Callable[[Batch], Batch] | None = None,
        rank: int = 0,
        world_size: int = 1,
        loading: LoadingSpec = IN_PROCESS,
    ) -> None:
        """Plans nothing and starts nothing yet.

        Args:
            dataset: gives the samples.
            batch_size: samples of a batch of this rank.
            seed: decides the order.
            shuffle: another order in each epoch; that of the index otherwise.
            drop_last: leaves out the last global batch if it is incomplete.
            replace_bad: another video stands in for a bad one; it is left out otherwise.
            quarantine: where bad videos are counted; one without a limit where None.
            index: names the rows of bad videos.
            finish: done to every batch in this process.
            rank: number of this process, of `world_size`.
            world_size: processes that share the epoch.
            loading: loader processes and their limits.
        """
        self.quarantine = Quarantine(videos=len(dataset)) if quarantine is None else quarantine
        self._index, self._replace, self._finish = index, replace_bad, finish
        self._order = EpochOrder(
            videos=len(dataset),
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
        )
        self._reader = SampleReader(dataset, self._order, replace_bad)
        self._source = self._open(loading)

    def __len__(self) -> int:
        """Batches that this rank gets in an epoch."""
        return len(self._order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of `epoch` after its first `start` samples, counted over all ranks.

        What lies before is not decoded. One epoch at a time: asking for another ends the one
        before. Batches of an evaluation lack their bad videos; see `quarantine` after the last.

        Raises:
            BadInput: when more videos are bad than may be.
        """
        plan = self._order.batches(epoch, start)
        for keys, loaded in zip(plan, self._source.run(plan, self._resolve), strict=True):
            self.quarantine.meet(loaded.bad)
            if loaded.batch is None and not self._replace:
                continue
            batch = loaded.batch or {}
            if self._replace and len(next(iter(batch.values()), ())) < len(keys):
                raise DataError(f"{MAX_ATTEMPTS} videos drawn in a row are bad; check the index")
            yield batch if self._finish is None else self._finish(batch)

    @property
    def pids(self) -> list[int]:
        """Ids of the loader processes that have been started."""
        return self._source.pids

    def close(self) -> None:
        """Ends the processes; a later epoch starts new ones."""
        self._source.close()

    def _open(self, loading: LoadingSpec) -> Source:
        pin = _pinning()
        if loading.workers == 0:
            return InProcess(self._reader, pin=pin)
        return ProcessPool(
            self._reader,
            workers=loading.workers,
            prefetch=loading.prefetch,
            limits=WorkerLimits(
                sample_seconds=loading.sample_seconds,
                memory_bytes=int(loading.worker_memory_gib * 2**30),
            ),
            on_fatal=self._learn,
            pin=pin,
        )

    def _learn(self, row: int, reason: str) -> None:
        where, path = f"row {row}", ""
        if self._index is not None:
            where, path = self._index.where(row), self._index.paths[row]
        self.quarantine.know(BadVideo(row, where, path, reason))

    def _resolve(self, keys: Sequence[Key]) -> tuple[list[Key], list[BadVideo]]:
        """Keys that start at a video not known as bad, and the bad ones passed over."""
        resolved, skipped = [], []
        for key in keys:
            for attempt in self._reader.attempts(key):
                bad = self.quarantine.known.get(self._order.video(attempt))
                if bad is None:
                    resolved.append(attempt)
                    break
                skipped.append(bad)
        return resolved, skipped


def _pinning() -> Pin | None:
    """Moves batches to page-locked memory, from where a GPU fetches them in the background."""
    if not torch.cuda.is_available():
        return None
    return partial(_pin, device=torch.cuda.current_device())


def _pin(batch: Batch, *, device: int) -> Batch:
    with torch.cuda.device(device):
        return {name: tensor.pin_memory() for name, tensor in batch.items()}
