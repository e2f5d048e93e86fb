"""Frames of an index's videos: decoded at each call, or once, at the start (`cmaev.data.held`).

Shapes: U distinct frames of one video, K frames asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cmaev.data.crops import training_crop
from cmaev.data.decode import DecodeLimits
from cmaev.data.errors import BadVideoError
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

    def crop(self, *, size: int, box: Box | None = None) -> "PixelCrop":
        """Cuts `box` out of every frame, all of it where None, and resizes it to `size` square."""
        return PixelCrop(training_crop(self.frames, box, size=size), self.places)


@dataclass(frozen=True, eq=False)
class PixelCrop:
    """Frames (U, S, S, 3), each distinct one once, and the places (K,) that were asked for."""

    frames: Frames
    places: IndexArray

    def __getitem__(self, part: slice) -> Frames:
        """Some of the frames asked for, (T, S, S, 3)."""
        return self.frames[self.places[part]]


@dataclass(frozen=True, eq=False)
class HeldClip:
    """Frames that a device holds: only named here, cut out there (`cmaev.data.device_frames`).

    Attributes:
        row: of the index.
        numbers: (K,) int64, the frames asked for.
        part: of every frame, that was asked for.
    """

    row: int
    numbers: IndexArray
    part: Box

    def crop(self, *, size: int, box: Box | None = None) -> "HeldCrop":
        """See `Clip.crop`; the device knows `size`."""
        if box is None:
            return HeldCrop(self, self.part)
        left, top = self.part.left + box.left, self.part.top + box.top
        return HeldCrop(self, box._replace(left=left, top=top))


@dataclass(frozen=True, eq=False)
class HeldCrop:
    """A reference: row, left, top, width and height, then the numbers of frames."""

    clip: HeldClip
    box: Box

    def __getitem__(self, part: slice) -> NDArray[np.int64]:
        """Names some of the frames asked for, (5 + T,) int64."""
        return np.asarray([self.clip.row, *self.box, *self.clip.numbers[part]], dtype=np.int64)


class ClipReader(Protocol):
    """Reads frames of one video."""

    def read(self, row: int, choose: Choose, look: Look | None = None) -> Clip | HeldClip:
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


class DeviceReader:
    """Names frames that were decoded before, for the device that holds them."""

    def __init__(self, held: HeldFrames) -> None:
        self._bad, self._shapes = held.bad, held.shapes

    def read(self, row: int, choose: Choose, look: Look | None = None) -> HeldClip:
        """See `ClipReader.read`."""
        if row in self._bad:
            raise BadVideoError(self._bad[row])
        frames, height, width = (int(side) for side in self._shapes[row])
        numbers = choose(frames)
        return HeldClip(row, numbers, look(width, height) if look else Box(0, 0, width, height))


def open_reader(
    index: VideoIndex, *, data: DataSpec, progress: Progress | None = None
) -> tuple[ClipReader, HeldFrames | None]:
    """The reader for `data.cache`, and the frames that a device is to hold for it."""
    if data.cache == "none":
        return DiskReader(index), None
    held = hold_frames(index, size=data.clip.size, loading=data, progress=progress)
    return (DeviceReader(held), held) if data.cache == "device" else (MemoryReader(held), None)
