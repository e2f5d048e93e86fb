"""Random erasing: one box of a clip, the same in all frames, filled with fresh noise (method.md 5).

A sample draws the box (`draw_erase_box`), the device fills it (`erase`).

Shapes: B clips, C = 3 channels, T frames, H x W pixels.
"""

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor

from cmaev.data.transforms import Box

_AREA: Final = (0.02, 1 / 3)
_RATIO: Final = (0.3, 1 / 0.3)
NO_BOX: Final = Box(0, 0, 0, 0)


def draw_erase_box(size: int, *, probability: float, rng: np.random.Generator) -> Box:
    """A box of 2 to 33 % of a square frame, or, where nothing is erased, `NO_BOX`."""
    if rng.random() >= probability:
        return NO_BOX
    for _ in range(10):
        area = size * size * rng.uniform(*_AREA)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width < size and 0 < height < size:
            left, top = rng.integers(size - width + 1), rng.integers(size - height + 1)
            return Box(int(left), int(top), width, height)
    return NO_BOX


def erase(video: Tensor, boxes: Tensor) -> Tensor:
    """Fills a box of each clip with normal noise, from PyTorch's generator of the device.

    Args:
        video: (B, C, T, H, W), normalised.
        boxes: (B, 4) left, top, width, height; width 0 erases nothing.
    """
    height, width = video.shape[-2:]
    left, top, box_width, box_height = boxes[:, :, None].unbind(1)  # each (B, 1)
    row, column = (torch.arange(side, device=video.device) for side in (height, width))
    rows = (row >= top) & (row < top + box_height)  # (B, H)
    columns = (column >= left) & (column < left + box_width)  # (B, W)
    inside = rows[:, :, None] & columns[:, None, :]  # (B, H, W), True = erased
    return torch.where(inside[:, None, None], torch.randn_like(video), video)
