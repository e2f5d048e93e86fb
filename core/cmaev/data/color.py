"""Colour augmentation of the target view: that of CMAE, drawn once per clip.

Jitter of brightness, contrast, saturation (0.4) and hue (0.1) in random order with probability
0.8, grey with 0.2, Gaussian blur of radius 0.1 to 2 with 0.5. The online view is left alone.

A sample draws the numbers (`draw_color`); the device applies them to whole batches
(`augment_color`), with static shapes and without a word from the host.

Shapes: B clips, T frames, H x W pixels, C = 3 channels.
"""

from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmaev.data.device import blur_matrix, mix_pixels, to_frames, to_planes

JITTER_PROBABILITY: Final = 0.8
GREY_PROBABILITY: Final = 0.2
BLUR_PROBABILITY: Final = 0.5
_FACTOR: Final = (0.6, 1.4)
_HUE: Final = (-0.1, 0.1)
_RADIUS: Final = (0.1, 2.0)

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_LUMA: Final = (0.2989, 0.587, 0.114)


class ColorDraw(NamedTuple):
    """What is done to one clip; the defaults leave it as it is.

    Attributes:
        changes: order of brightness, contrast and saturation.
        amounts: factor of each of them, in that order.
        hue_place: how many of them come before the change of hue.
        hue: share of the circle that hue moves by.
        grey: 1 takes the colour away.
        radius: standard deviation of the blur in pixels; 0 is none.
    """

    changes: tuple[float, float, float] = (BRIGHTNESS, CONTRAST, SATURATION)
    amounts: tuple[float, float, float] = (1.0, 1.0, 1.0)
    hue_place: float = 3.0
    hue: float = 0.0
    grey: float = 0.0
    radius: float = 0.0

    def pack(self) -> NDArray[np.float32]:
        """As numbers in a row, (10,): what batches carry."""
        return np.array([*self.changes, *self.amounts, *self[2:]], dtype=np.float32)


def draw_color(rng: np.random.Generator) -> ColorDraw:
    """Draws the change of one clip."""
    draw = ColorDraw()
    if rng.random() < JITTER_PROBABILITY:
        order = [int(change) for change in rng.permutation(4)]
        by = {c: float(rng.uniform(*(_HUE if c == HUE else _FACTOR))) for c in order}
        a, b, c = (change for change in order if change != HUE)
        draw = ColorDraw((a, b, c), (by[a], by[b], by[c]), order.index(HUE), by[HUE])
    if rng.random() < GREY_PROBABILITY:
        draw = draw._replace(grey=1.0)
    if rng.random() < BLUR_PROBABILITY:
        draw = draw._replace(radius=float(rng.uniform(*_RADIUS)))
    return draw


@torch.no_grad()
def augment_color(frames: Tensor, draws: Tensor) -> Tensor:
    """Changes the colours of all frames of a clip in the same way, as torchvision's functions do.

    Works in fp32, without rounding between the changes.

    Args:
        frames: (B, T, H, W, C), levels of 0 to 255.
        draws: (B, 10), packed draws.

    Returns:
        (B, T, H, W, C) fp32, levels of 0 to 255.
    """
    x = to_planes(frames) / 255  # (B, H, T, C, W)
    # A kernel cannot end in the middle of the changes: compiled, they run twice, up to the mean
    # that contrast needs and then to their end, instead of once with a mean before each change.
    mean = _mean_before_contrast(x, draws) if torch.compiler.is_compiling() else None
    x = _jitter(x, draws, mean)
    grey, radius = draws[:, 8:].unbind(1)  # each (B,)
    x = torch.lerp(x, _grey(x), _per_clip(grey))
    rows, columns = (blur_matrix(radius, size=size) for size in (x.shape[1], x.shape[4]))
    return to_frames(mix_pixels(x, rows, columns).float() * 255)  # (B, T, H, W, C)


def _jitter(x: Tensor, draws: Tensor, mean: Tensor | None) -> Tensor:
    """Brightness, contrast, saturation and hue, in the order of each clip.

    Args:
        x: (B, H, T, C, W), levels of 0 to 1.
        draws: (B, 10), packed draws.
        mean: (B, 1, T, 1, 1) grey of each frame when its contrast is changed; None takes it then.

    Returns:
        (B, H, T, C, W).
    """
    changes, amounts = draws[:, :3], draws[:, 3:6]  # each (B, 3)
    hue_place, hue = draws[:, 6:8].unbind(1)  # each (B,)
    for place in range(3):
        amount = amounts[:, place].where(place < hue_place, 1.0)
        x = _blend(x, changes[:, place], amount, mean)
    x = _turn_hue(x, hue)
    for place in range(3):
        amount = amounts[:, place].where(place >= hue_place, 1.0)
        x = _blend(x, changes[:, place], amount, mean)
    return x


def _mean_before_contrast(x: Tensor, draws: Tensor) -> Tensor:
    """(B, 1, T, 1, 1), the mean grey of frames (B, H, T, C, W) after what comes before contrast."""
    changes, amounts = draws[:, :3], draws[:, 3:6]  # each (B, 3)
    hue_place, hue = draws[:, 6:8].unbind(1)  # each (B,)
    is_contrast = changes == CONTRAST  # (B, 3)
    before = is_contrast.cumsum(dim=1) == 0  # (B, 3)
    place = before.sum(dim=1)  # (B,)
    hue = hue.where(hue_place <= place, 0.0)
    kept = [changes, amounts.where(before, 1.0), hue_place[:, None], hue[:, None], draws[:, 8:]]
    nothing = torch.zeros((), device=x.device)  # contrast is left out, so its mean does not matter
    return _frame_mean(_jitter(x, torch.cat(kept, dim=1), nothing))


def _blend(x: Tensor, change: Tensor, amount: Tensor, mean: Tensor | None) -> Tensor:
    """Brightness, contrast, saturation: away from black, from the mean grey, from the grey."""
    grey = _grey(x)  # (B, H, T, 1, W)
    if mean is None:
        mean = _frame_mean(x)
    black = _per_clip(change == CONTRAST) * mean
    other = torch.addcmul(black, _per_clip(change == SATURATION), grey)  # (B, H, T, 1, W)
    return torch.lerp(other, x, _per_clip(amount)).clamp_(0, 1)


def _frame_mean(x: Tensor) -> Tensor:
    """(B, H, T, C, W) -> the mean luma of each frame, (B, 1, T, 1, 1)."""
    return _grey(x).mean(dim=(1, 3, 4), keepdim=True)


def _turn_hue(x: Tensor, amount: Tensor) -> Tensor:
    """Moves the hue; the lightest and the darkest level of a pixel stay."""
    red, green, blue = x[:, :, :, :1], x[:, :, :, 1:2], x[:, :, :, 2:]  # each (B, H, T, 1, W)
    light, dark = x.amax(dim=3, keepdim=True), x.amin(dim=3, keepdim=True)
    span = light - dark
    unit = span.clamp_min(1e-12)
    hue = torch.where(  # in sixths of the circle
        light == red,
        (green - blue) / unit,
        torch.where(light == green, 2 + (blue - red) / unit, 4 + (red - green) / unit),
    )
    turned = hue + _per_clip(6 * amount)
    place = torch.arange(5, 0, -2, device=x.device)[:, None]  # (C, 1), of red, green, blue
    sixth = (turned + place).remainder_(6)  # (B, H, T, C, W)
    share = (2 - (sixth - 2).abs_()).clamp_(0, 1)
    return torch.addcmul(light, span, share, value=-1)


def _grey(x: Tensor) -> Tensor:
    """(B, H, T, C, W) -> its luma (B, H, T, 1, W)."""
    red, green, blue = x[:, :, :, :1], x[:, :, :, 1:2], x[:, :, :, 2:]  # each (B, H, T, 1, W)
    return (_LUMA[0] * red).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _per_clip(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1, 1)."""
    return values[:, None, None, None, None]
