"""RandAugment for clips, drawn once per clip: timm's `rand-m7-n4-mstd0.5-inc1` (method.md 5).

Of the changes whose strength grows with the magnitude, some are drawn and done one after the other
to all frames alike. They see the crop, as in timm's image pipeline, where VideoMAE changes the
whole frames before it crops: that way they run on the device, and on a fraction of the pixels.
New corners are filled with the mean colour; pixels are interpolated bilinearly.

A sample draws (`draw_rand_augment`), the device does it (`rand_augment`); which functions run is
decided on the host, so the draws stay there.

Shapes: B clips, T frames, H x W pixels, C = 3 channels, N changes per clip.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cmaev_spec.data import RandAugmentSpec

_LARGEST: Final = 10.0
_FILL: Final = [124.0, 116.0, 104.0]
_NONE: Final = -1.0

Change = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class _Op:
    """A change of a uint8 clip (T, C, H, W) by an amount.

    Attributes:
        change: what to do.
        most: amount at the largest magnitude.
        least: amount at magnitude 0.
        signed: whether the amount is negated half of the time.
    """

    change: Change
    most: float = 0.0
    least: float = 0.0
    signed: bool = False

    def draw(self, magnitude: float, rng: np.random.Generator) -> float:
        amount = self.least + (self.most - self.least) * magnitude / _LARGEST
        return -amount if self.signed and rng.random() < 0.5 else amount


def _affine(clip: Tensor, *, x: float = 0, y: float = 0, shear: tuple[float, float]) -> Tensor:
    """Shears about the upper left corner, in degrees, and shifts by pixels."""
    moved: Tensor = F.affine(
        clip,
        angle=0.0,
        translate=[x, y],
        scale=1.0,
        shear=list(shear),
        center=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
        fill=_FILL,
    )
    return moved


def _degrees(slope: float) -> float:
    return math.degrees(math.atan(slope))


def _solarize_add(clip: Tensor, amount: float) -> Tensor:
    """Lightens the dark half of the levels."""
    lighter = (clip.to(torch.int16) + int(amount)).clamp_(0, 255).to(clip.dtype)
    return torch.where(clip < 128, lighter, clip)


OPS: Final[dict[str, _Op]] = {
    "auto_contrast": _Op(lambda clip, _: F.autocontrast(clip)),
    "equalize": _Op(lambda clip, _: F.equalize(clip)),
    "invert": _Op(lambda clip, _: F.invert(clip)),
    "rotate": _Op(
        lambda clip, degrees: F.rotate(
            clip, degrees, interpolation=InterpolationMode.BILINEAR, fill=_FILL
        ),
        most=30.0,
        signed=True,
    ),
    "posterize": _Op(lambda clip, cut: F.posterize(clip, bits=max(4 - int(cut), 1)), most=4.0),
    "solarize": _Op(lambda clip, cut: F.solarize(clip, threshold=256 - int(cut)), most=256.0),
    "solarize_add": _Op(_solarize_add, most=110.0),
    "color": _Op(lambda clip, more: F.adjust_saturation(clip, 1 + more), most=0.9, signed=True),
    "contrast": _Op(lambda clip, more: F.adjust_contrast(clip, 1 + more), most=0.9, signed=True),
    "brightness": _Op(
        lambda clip, more: F.adjust_brightness(clip, 1 + more), most=0.9, signed=True
    ),
    "sharpness": _Op(lambda clip, more: F.adjust_sharpness(clip, 1 + more), most=0.9, signed=True),
    "shear_x": _Op(
        lambda clip, slope: _affine(clip, shear=(_degrees(slope), 0.0)), most=0.3, signed=True
    ),
    "shear_y": _Op(
        lambda clip, slope: _affine(clip, shear=(0.0, _degrees(slope))), most=0.3, signed=True
    ),
    "translate_x": _Op(
        lambda clip, share: _affine(clip, x=share * clip.shape[-1], shear=(0.0, 0.0)),
        most=0.45,
        signed=True,
    ),
    "translate_y": _Op(
        lambda clip, share: _affine(clip, y=share * clip.shape[-2], shear=(0.0, 0.0)),
        most=0.45,
        signed=True,
    ),
}
_NAMES: Final = tuple(OPS)


def draw_rand_augment(spec: RandAugmentSpec, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draws the changes of one clip: (N, 2) place in `OPS` or -1 for none, and its amount."""
    draws = np.full((spec.num_ops, 2), _NONE, dtype=np.float32)
    for place, op in enumerate(rng.integers(len(OPS), size=spec.num_ops)):
        if rng.random() < spec.probability:
            magnitude = np.clip(rng.normal(spec.magnitude, spec.magnitude_std), 0, _LARGEST)
            draws[place] = op, OPS[_NAMES[op]].draw(float(magnitude), rng)
    return draws


@torch.no_grad()
def rand_augment(frames: Tensor, draws: Tensor) -> Tensor:
    """Changes each clip of a batch as drawn.

    Args:
        frames: (B, T, H, W, C) uint8.
        draws: (B, N, 2) on the host, as drawn.

    Returns:
        (B, T, H, W, C) uint8, in memory of its own.
    """
    assert draws.device.type == "cpu", "reading draws must not wait for the device"
    result = frames.clone()
    for clip, changes in zip(result, draws.tolist(), strict=True):
        changed = clip.permute(0, 3, 1, 2)  # (T, C, H, W)
        for op, amount in changes:
            if op != _NONE:
                changed = OPS[_NAMES[int(op)]].change(changed, amount)
        clip.copy_(changed.permute(0, 2, 3, 1))  # (T, H, W, C)
    return result
