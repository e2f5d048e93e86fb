"""Mixup and CutMix of clips: one of the two for each batch, never cutting time (method.md 5).

Each clip is mixed with its mirror image in the batch, the first with the last. The numbers come
from PyTorch's generator of the host, which checkpoints hold, so that a resumed run mixes alike.

Shapes: B clips, C = 3 channels, T frames, H x W pixels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cmaev.data.erasing import NO_BOX
from cmaev.data.transforms import Box


@dataclass(frozen=True)
class Mixing:
    """How a batch is mixed.

    Attributes:
        share: how much of the label stays its own.
        box: what is replaced by the other clip (CutMix); without one, all pixels blend (Mixup).
    """

    share: float
    box: Box = NO_BOX


def draw_mixing(*, mixup: float, cutmix: float, height: int, width: int) -> Mixing:
    """Draws how to mix a batch; where both are on, each has half of the batches.

    Args:
        mixup: alpha of the beta distribution of Mixup; 0 is off.
        cutmix: alpha of CutMix; 0 is off.
        height: of the frames, in pixels.
        width: of the frames, in pixels.
    """
    if not (mixup or cutmix):
        return Mixing(share=1.0)
    cut = bool(cutmix) and (not mixup or _uniform() < 0.5)
    alpha = cutmix if cut else mixup
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    if not cut:
        return Mixing(share)
    box = _cut_box(height, width, area=1 - share)
    return Mixing(1 - box.width * box.height / (height * width), box)


def mix(video: Tensor, mixing: Mixing) -> Tensor:
    """Mixes clips (B, C, T, H, W) with those at the other end of the batch."""
    if mixing.share == 1.0:
        return video
    other = video.flip(0)
    if mixing.box == NO_BOX:
        return torch.lerp(other, video, mixing.share)
    left, top, width, height = mixing.box
    place = (..., slice(top, top + height), slice(left, left + width))
    mixed = video.clone()
    mixed[place] = other[place]
    return mixed


def _cut_box(height: int, width: int, *, area: float) -> Box:
    """A box of the frame's shape around any pixel; what reaches over the edge is cut off."""
    side = math.sqrt(area)
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    y, x = int(_uniform() * height), int(_uniform() * width)
    top, bottom = max(y - half_height, 0), min(y + half_height, height)
    left, right = max(x - half_width, 0), min(x + half_width, width)
    return Box(left, top, right - left, bottom - top)


def _uniform() -> float:
    return float(torch.rand(()))
