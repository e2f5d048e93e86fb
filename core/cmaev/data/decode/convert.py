"""Decoder frames to upright RGB, whole or in part.

A part is cut out of the decoder's planes before they are converted. Conversion looks at blocks of
pixels at fixed places, so the cut keeps to those blocks: the pixels come out as those of the whole.
"""

from typing import Final

import numpy as np
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cmaev.data.decode.base import Region
from cmaev.data.decode.container import quarter_turns

# Two by two pixels share a colour; vector units take up to 64 pixels of a row.
_BLOCK: Final = 64
_PLANAR: Final = frozenset({"yuv420p", "yuvj420p"})


class Converter:
    """Converts frames of one video to uint8 RGB (h, w, 3), upright, of one size.

    Frames of another size than that are scaled to it.
    """

    def __init__(self, region: Region | None, *, size: tuple[int, int] | None = None) -> None:
        """Sets the size.

        Args:
            region: part of the upright frame to give; all of it where None.
            size: width and height of the upright frame; that of the first frame where None.
        """
        self._size, self._region = size, region
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The part of `frame`; may be a view of memory that nothing else writes to."""
        quarters = quarter_turns(frame)
        if self._size is None:
            self._size = _turned((frame.width, frame.height), quarters)
        width, height = _turned(self._size, quarters)
        region = self._region or Region(0, 0, *self._size)
        part = coded_region(region, width, height, quarters)
        block = _blocks(part, width, height)
        cut = (block.width, block.height) != (width, height) and _can_cut(frame, width, height)
        if cut:
            frame = _cut(frame, block)
            part = part._replace(left=part.left - block.left, top=part.top - block.top)
            width, height = block.width, block.height
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
        pixels = _pixels(rgb)[part.top : part.top + part.height, part.left :][:, : part.width]
        return np.rot90(pixels, quarters)


def _turned(size: tuple[int, int], quarters: int) -> tuple[int, int]:
    return size if quarters % 2 == 0 else (size[1], size[0])


def coded_region(region: Region, width: int, height: int, quarters: int) -> Region:
    """Where a region of the upright frame lies in the frame as it is coded.

    Args:
        region: of the upright frame.
        width: of the coded frame.
        height: of the coded frame.
        quarters: quarter turns, counter-clockwise, that stand the coded frame upright.
    """
    left, top, w, h = region
    return (
        region,
        Region(width - top - h, left, h, w),
        Region(width - left - w, height - top - h, w, h),
        Region(top, height - left - w, h, w),
    )[quarters]


def _blocks(part: Region, width: int, height: int) -> Region:
    """The smallest region of whole blocks around `part`."""
    left, top = part.left - part.left % _BLOCK, part.top - part.top % 2
    right = min(-(-(part.left + part.width) // _BLOCK) * _BLOCK, width)
    bottom = min(part.top + part.height + (part.top + part.height) % 2, height)
    return Region(left, top, right - left, bottom - top)


def _can_cut(frame: VideoFrame, width: int, height: int) -> bool:
    """Only where conversion does not look beyond a block: even sides, nothing to scale."""
    even = width % 2 == 0 and height % 2 == 0
    return even and frame.format.name in _PLANAR and (frame.width, frame.height) == (width, height)


def _cut(frame: VideoFrame, block: Region) -> VideoFrame:
    part = VideoFrame(block.width, block.height, frame.format.name)
    part.colorspace, part.color_range = frame.colorspace, frame.color_range
    for number, (source, target) in enumerate(zip(frame.planes, part.planes, strict=True)):
        left, top, width, height = block if number == 0 else (side // 2 for side in block)
        _rows(target)[:height, :width] = _rows(source)[top : top + height, left : left + width]
    return part


def _pixels(rgb: VideoFrame) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) of an RGB frame, without a copy."""
    return _rows(rgb.planes[0])[: rgb.height, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)


def _rows(plane: VideoPlane) -> NDArray[np.uint8]:
    """The bytes of a plane by rows, without a copy."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
