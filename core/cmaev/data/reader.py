"""Frames of an index's videos: decoded at each call, or once, at the start (`cmaev.data.held`).

Shapes: U distinct frames of one video, K frames asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cmaev.data.decode import DecodeLimits
from cmaev.data.held import HeldFrames, Progress, hold_frames
from cmaev.data.index import VideoIndex
from cmaev.data.rows import open_row
from cmaev.data.sampling import IndexArray
from cmaev.data.transforms import Box, Frames, cut
from cmaev_spec.data import DataSpec

Choose = Callable[[int], IndexArray]
"""Frames that are asked for, by their number in the row; told how many there are."""
Look = Callable[[int, int], Box]
"""The part of every frame that is asked for; told its width and height."""


@dataclass(frozen=True, eq=False)
class Clip:
    """`frames[places]` are the frames asked for; each distinct one is there once.

    Attributes:
        frames: (U, H, W, 3) uint8, the part that was asked for; not to be written to.
        places: (K,) int64.
    """

    frames: Frames
    places: IndexArray


class ClipReader(Protocol):
    """Reads frames of one video."""

    def read(self, row: int, choose: Choose, look: Look | None = None) -> Clip:
        """The frames of the video at `row` that `choose(num_frames)` asks for.

        Args:
            row: of the index.
            choose: asked first.
            look: tells the part of the frames that is needed, all of them where None. Only that
                part is converted and copied.

        Raises:
            BadVideoError: naming the row of the index, the path and the reason.
        """
        ...


class DiskReader:
    """Decodes what is asked for, once for all of a sample's views."""

    def __init__(self, index: VideoIndex, *, limits: DecodeLimits | None = None) -> None:
        self._index = index
        self._limits = limits

    def read(self, row: int, choose: Choose, look: Look | None = None) -> Clip:
        """See `ClipReader.read`."""
        with open_row(self._index, row, limits=self._limits) as video:
            unique, places = np.unique(choose(video.num_frames), return_inverse=True)
            return Clip(video.decode(unique, part=look(*video.size) if look else None), places)


class MemoryReader:
    """Looks frames up that were decoded before."""

    def __init__(self, held: HeldFrames) -> None:
        self._held = held

    def read(self, row: int, choose: Choose, look: Look | None = None) -> Clip:
        """See `ClipReader.read`."""
        frames = self._held[row]
        unique, places = np.unique(choose(len(frames)), return_inverse=True)
        height, width = frames.shape[1:3]
        return Clip((cut(frames, look(width, height)) if look else frames)[unique], places)


def open_reader(
    index: VideoIndex, *, data: DataSpec, progress: Progress | None = None
) -> ClipReader:
    """The reader for `data.cache`."""
    if data.cache == "none":
        return DiskReader(index)
    held = hold_frames(index, size=data.clip.size, loading=data, progress=progress)
    return MemoryReader(held)
