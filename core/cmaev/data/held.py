"""Every frame of an index's videos, decoded once, scaled down, and held as uint8.

Loader processes decode them, side by side, into memory that all of them share; a video that breaks,
hangs or crashes its decoder there is bad, as it is for every loader.

Shapes: F frames of one video, H x W pixels, which differ from video to video.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmaev.data.errors import BadVideo, BadVideoError, DataError
from cmaev.data.index import VideoIndex
from cmaev.data.loader import EpochLoader
from cmaev.data.memory import SharedBytes, available_memory
from cmaev.data.rows import open_row
from cmaev.data.samples import Sample, ViewDataset
from cmaev.data.transforms import Frames, resize_short_side, short_side_size
from cmaev_spec.data import LoadingSpec

Progress = Callable[[int, int], None]

# Held frames keep this much more than the clip's side, as room for crops.
CACHE_MARGIN: Final = 1.15


@dataclass(frozen=True, eq=False)
class HeldFrames:
    """Frames by row.

    Attributes:
        memory: all of them, end to end.
        shapes: (videos, 3), frames, height and width; zeros for a bad video.
        bad: the videos that cannot be decoded.
    """

    memory: SharedBytes
    shapes: NDArray[np.int64]
    bad: Mapping[int, BadVideo]
    starts: NDArray[np.int64] = field(init=False)
    """(videos + 1,) where each video begins, in bytes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", _starts(self.shapes))

    def __getitem__(self, row: int) -> Frames:
        """(F, H, W, 3), not to be written to by readers.

        Raises:
            BadVideoError: if the video could not be decoded.
        """
        if row in self.bad:
            raise BadVideoError(self.bad[row])
        part = self.memory.array[self.starts[row] : self.starts[row + 1]]
        return part.reshape(*self.shapes[row], 3)


def hold_frames(
    index: VideoIndex,
    *,
    size: int,
    loading: LoadingSpec,
    progress: Progress | None = None,
    free: Callable[[], int] = available_memory,
) -> HeldFrames:
    """Decodes all videos.

    Args:
        index: the videos.
        size: side of the clips; frames keep a short side of at most 1.15 times that.
        loading: the processes that decode, and their limits.
        progress: called with (videos done, videos in all).
        free: bytes of memory that there are.

    Raises:
        DataError: if the frames need over half of the free memory.
    """
    reading = _Reading(index, loading)
    reading.go_through(_Shapes(index, int(CACHE_MARGIN * size)), None)
    needed, there = int(_starts(reading.shapes)[-1]), free()
    if needed > there / 2:
        raise DataError(
            f"data.cache: the frames of {len(index)} videos need {needed / 2**30:.1f} GiB of "
            f"memory, over half of the {there / 2**30:.1f} GiB that are free; set data.cache to "
            "none"
        )
    held = HeldFrames(SharedBytes(needed), reading.shapes, reading.bad)
    reading.go_through(_Filling(index, held), progress)
    return held


class _Reading:
    """What has been found out about the videos of an index while all of them are read."""

    def __init__(self, index: VideoIndex, loading: LoadingSpec) -> None:
        self._index, self._loading = index, loading
        self.shapes = np.zeros((len(index), 3), dtype=np.int64)
        self.bad: dict[int, BadVideo] = {}

    def go_through(self, dataset: ViewDataset, progress: Progress | None) -> None:
        """Takes the `shape` (3,) of every `row` of a dataset, past those known as bad."""
        loader = EpochLoader(
            dataset,
            batch_size=1,
            seed=0,
            shuffle=False,
            drop_last=False,
            index=self._index,
            loading=self._loading,
        )
        loader.quarantine.meet(self.bad.values())
        with closing(loader):
            for batch in loader.epoch(0):
                row = int(batch["row"])
                self.shapes[row] = batch["shape"].numpy()
                if progress is not None:
                    progress(row + 1, len(self._index))
        self.bad.update((video.row, video) for video in loader.quarantine.listed())


@dataclass(frozen=True, eq=False)
class _Shapes:
    """A dataset of the shapes that videos will be held in."""

    index: VideoIndex
    short: int

    def __len__(self) -> int:
        return len(self.index)

    def sample(self, index: int, *, epoch: int) -> Sample:
        with open_row(self.index, index) as video:
            width, height = video.size
            if min(width, height) > self.short:
                width, height = short_side_size(width, height, short=self.short)
            shape = np.asarray([video.num_frames, height, width])
        return {"row": np.asarray(index), "shape": shape}


@dataclass(frozen=True, eq=False)
class _Filling:
    """A dataset whose samples leave their frames in the memory."""

    index: VideoIndex
    held: HeldFrames

    def __len__(self) -> int:
        return len(self.index)

    def sample(self, index: int, *, epoch: int) -> Sample:
        frames = self.held[index]
        with open_row(self.index, index) as video:
            for place, frame in enumerate(video.iterate()):
                frames[place] = resize_short_side(frame[None], min(frames.shape[1:3]))[0]
        return {"row": np.asarray(index), "shape": self.held.shapes[index]}


def _starts(shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(shapes.prod(axis=1) * 3)])
