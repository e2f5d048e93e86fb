"""Crops, resizing and flips of uint8 clips (T, H, W, 3), with one box for all frames.

numpy and Pillow only: evaluation and serving share these, so that both see the same pixels.
Training draws its boxes here and cuts them with `cmaev.data.crops`, at most one level away.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Frames = NDArray[np.uint8]


class Box(NamedTuple):
    """A rectangle in pixels of the source."""

    left: int
    top: int
    width: int
    height: int


def crop_resize(frames: Frames, box: Box, *, size: tuple[int, int]) -> Frames:
    """Cuts `box` out of every frame and resizes it to `size` (width, height), antialiased bilinear.

    Returns:
        (T, size height, size width, 3).
    """
    width, height = size
    full_height, full_width = frames.shape[1:3]
    if size == (full_width, full_height) and box == Box(0, 0, full_width, full_height):
        return frames
    result = np.empty((len(frames), height, width, 3), dtype=np.uint8)
    for source, target in zip(cut(frames, box), result, strict=True):
        image = Image.fromarray(np.ascontiguousarray(source))
        target[...] = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    return result


def cut(frames: Frames, box: Box) -> Frames:
    """What lies inside `box`: (T, box height, box width, 3), a view."""
    bottom, right = box.top + box.height, box.left + box.width
    return frames[:, box.top : bottom, box.left : right]


def hull(boxes: Sequence[Box]) -> Box:
    """The smallest box around all of them."""
    left, top = min(box.left for box in boxes), min(box.top for box in boxes)
    right = max(box.left + box.width for box in boxes)
    bottom = max(box.top + box.height for box in boxes)
    return Box(left, top, right - left, bottom - top)


def multi_scale_box(
    width: int, height: int, *, scales: Sequence[float], rng: np.random.Generator
) -> Box:
    """VideoMAE's pretraining crop: sides are scales of the short side, at one of 13 places.

    The two sides' scales are at most one step of the list apart.
    """
    short = min(width, height)
    sides = [max(int(short * scale), 1) for scale in scales]
    pairs = [(i, j) for i in range(len(sides)) for j in range(len(sides)) if abs(i - j) <= 1]
    i, j = pairs[rng.integers(len(pairs))]
    across, down = _PLACES[rng.integers(len(_PLACES))]
    left = (width - sides[i]) * across // 4
    top = (height - sides[j]) * down // 4
    return Box(left, top, sides[i], sides[j])


# Quarters of the free room: a 3 x 3 grid and the four points between its middle and its corners.
_PLACES = (
    *((x, y) for x in (0, 2, 4) for y in (0, 2, 4)),
    *((x, y) for x in (1, 3) for y in (1, 3)),
)


def random_resized_box(
    width: int,
    height: int,
    *,
    area: tuple[float, float],
    rng: np.random.Generator,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """A box of a random share of the area and a random aspect ratio, anywhere in the frame."""
    for _ in range(10):
        target = width * height * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return Box(int(left), int(top), w, h)
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return Box((width - w) // 2, (height - h) // 2, w, h)


def short_side_size(width: int, height: int, *, short: int) -> tuple[int, int]:
    """(width, height) scaled so that the short side is `short`."""
    if width <= height:
        return short, max(round(height * short / width), short)
    return max(round(width * short / height), short), short


def resize_short_side(frames: Frames, short: int) -> Frames:
    """Scales every frame so that its short side is `short`."""
    height, width = frames.shape[1:3]
    size = short_side_size(width, height, short=short)
    return crop_resize(frames, Box(0, 0, width, height), size=size)


def center_crop(frames: Frames, size: int) -> Frames:
    """The square of `size` pixels in the middle: (T, size, size, 3)."""
    height, width = frames.shape[1:3]
    assert min(width, height) >= size, (
        f"{width}x{height} frames are smaller than the crop of {size}"
    )
    left, top = (width - size) // 2, (height - size) // 2
    return frames[:, top : top + size, left : left + size]


def spatial_crops(frames: Frames, size: int, num_crops: int) -> Frames:
    """Squares spread evenly along the longer side, first at its start, last at its end.

    Args:
        frames: (T, H, W, 3), its short side at least `size`; the crop is centred across it.
        size: side of the squares.
        num_crops: how many; a single one is centred.

    Returns:
        (num_crops, T, size, size, 3).
    """
    if num_crops == 1:
        return center_crop(frames, size)[None]
    height, width = frames.shape[1:3]
    free_x, free_y = width - size, height - size
    crops = []
    for k in range(num_crops):
        left = k * free_x // (num_crops - 1) if width >= height else free_x // 2
        top = k * free_y // (num_crops - 1) if height > width else free_y // 2
        crops.append(frames[:, top : top + size, left : left + size])
    return np.stack(crops)
