"""Frames of an index's videos: from disk at each call, or decoded once and held in memory.

Shapes: U distinct frames of one video, K frames asked for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from cmaev.data.decode import DecodeLimits, Video
from cmaev.data.decode.auto import closing_source, open_checked
from cmaev.data.errors import DataError
from cmaev.data.index import VideoIndex
from cmaev.data.memory import SharedBytes, available_memory
from cmaev.data.sampling import IndexArray, segment_frames
from cmaev.data.transforms import Frames, resize_short_side, short_side_size

Choose = Callable[[int], IndexArray]
Progress = Callable[[int, int], None]

# Held frames keep this much more than the clip's side, as room for crops.
CACHE_MARGIN: Final = 1.15


@dataclass(frozen=True, eq=False)
class Clip:
    """`frames[places]` are the frames asked for; each distinct one is there once.

    Attributes:
        frames: (U, H, W, 3) uint8, not to be written to.
        places: (K,) int64.
    """

    frames: Frames
    places: IndexArray


class ClipReader(Protocol):
    """Reads frames of one video."""

    def read(self, row: int, choose: Choose) -> Clip:
        """The frames of the video at `row` that `choose(num_frames)` asks for.

        Raises:
            DataError: naming the row of the index, the path and the reason.
        """
        ...


class DiskReader:
    """Decodes what is asked for, once for all of a sample's views."""

    def __init__(self, index: VideoIndex, *, limits: DecodeLimits | None = None) -> None:
        self._index = index
        self._limits = limits

    def read(self, row: int, choose: Choose) -> Clip:
        """See `ClipReader.read`."""
        with open_row(self._index, row, limits=self._limits) as video:
            part = segment_frames(video.num_frames, self._index.segment(row))
            unique, places = np.unique(choose(len(part)), return_inverse=True)
            return Clip(video.decode(part.start + unique).frames, places)


class MemoryReader:
    """Decodes every video once, at the start, and holds its frames, scaled down, as uint8.

    Worker processes share the frames.
    """

    def __init__(
        self,
        index: VideoIndex,
        *,
        size: int,
        limits: DecodeLimits | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Decodes all videos.

        Args:
            index: the videos.
            size: side of the clips; frames keep a short side of at most 1.15 times that.
            limits: what a file may ask for.
            progress: called with (videos done, videos in all).

        Raises:
            DataError: for a broken video, or if the frames need over half of the free memory.
        """
        short = int(CACHE_MARGIN * size)
        self._shapes = np.asarray(
            [_held_shape(index, row, short, limits) for row in range(len(index))], dtype=np.int64
        )  # (videos, 3): frames, height, width
        self._starts = np.concatenate([[0], np.cumsum(self._shapes.prod(axis=1) * 3)])
        _check_memory(int(self._starts[-1]), len(index))
        self._frames = SharedBytes(int(self._starts[-1]))
        for row in range(len(index)):
            self._fill(index, row, limits)
            if progress is not None:
                progress(row + 1, len(index))

    def read(self, row: int, choose: Choose) -> Clip:
        """See `ClipReader.read`."""
        frames = self._view(row)
        unique, places = np.unique(choose(len(frames)), return_inverse=True)
        return Clip(frames[unique], places)

    def _view(self, row: int) -> Frames:
        part = self._frames.array[self._starts[row] : self._starts[row + 1]]
        return part.reshape(*self._shapes[row], 3)

    def _fill(self, index: VideoIndex, row: int, limits: DecodeLimits | None) -> None:
        held = self._view(row)
        short = min(held.shape[1:3])
        with open_row(index, row, limits=limits) as video:
            part = segment_frames(video.num_frames, index.segment(row))
            for place, (frame, _) in zip(held, video.stream(part), strict=True):
                place[...] = resize_short_side(frame[None], short)[0]


def open_reader(
    index: VideoIndex, *, cache: str, size: int, progress: Progress | None = None
) -> ClipReader:
    """The reader for `data.cache`: `none` or `memory`."""
    if cache == "memory":
        return MemoryReader(index, size=size, progress=progress)
    assert cache == "none", f"unknown cache {cache!r}"
    return DiskReader(index)


@contextmanager
def open_row(index: VideoIndex, row: int, *, limits: DecodeLimits | None = None) -> Iterator[Video]:
    """Opens the video at `row`; errors name its line in the index and its path."""
    try:
        with (
            closing_source(index.open_source(row)) as source,
            open_checked(source, verified=index.verified(row), limits=limits) as video,
        ):
            yield video
    except DataError as error:
        raise DataError(
            f"{index.where(row)}: {index.paths[row]}: {error}; replace the video or remove the row"
        ) from None


def _held_shape(
    index: VideoIndex, row: int, short: int, limits: DecodeLimits | None
) -> tuple[int, int, int]:
    with open_row(index, row, limits=limits) as video:
        width, height = video.info.width, video.info.height
        if min(width, height) > short:
            width, height = short_side_size(width, height, short=short)
        return len(segment_frames(video.num_frames, index.segment(row))), height, width


def _check_memory(needed: int, videos: int) -> None:
    free = available_memory()
    if needed > free / 2:
        raise DataError(
            f"data.cache: the frames of {videos} videos need {needed / 2**30:.1f} GiB of memory, "
            f"over half of the {free / 2**30:.1f} GiB that are free; set data.cache to none"
        )
