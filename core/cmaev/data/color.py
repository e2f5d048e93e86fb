"""Colour augmentation of the target view: that of CMAE, drawn once per clip.

Jitter of brightness, contrast, saturation (0.4) and hue (0.1) with probability 0.8, grey with 0.2,
Gaussian blur of radius 0.1 to 2 with 0.5. The online view is left alone.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

JITTER_PROBABILITY: Final = 0.8
GREY_PROBABILITY: Final = 0.2
BLUR_PROBABILITY: Final = 0.5
_FACTOR: Final = (0.6, 1.4)
_HUE: Final = (-0.1, 0.1)
_RADIUS: Final = (0.1, 2.0)
# Values of a clip below which threads cost more than they bring.
_SMALL: Final = 500_000


def augment_clip(frames: NDArray[np.uint8], *, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Changes the colours of all frames (T, H, W, 3) in the same way."""
    copy = np.array(frames, order="C")
    if copy.size > _SMALL:
        return _augment(copy, rng)
    with _one_thread():
        return _augment(copy, rng)


def _augment(frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)  # (T, 3, H, W)
    if rng.random() < JITTER_PROBABILITY:
        clip = _jitter(clip, rng)
    if rng.random() < GREY_PROBABILITY:
        clip = F.rgb_to_grayscale(clip, num_output_channels=3)
    if rng.random() < BLUR_PROBABILITY:
        clip = _blur(clip, radius=rng.uniform(*_RADIUS))
    result: NDArray[np.uint8] = clip.permute(0, 2, 3, 1).contiguous().numpy()  # (T, H, W, 3)
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _jitter(clip: Tensor, rng: np.random.Generator) -> Tensor:
    changes: tuple[tuple[Callable[[Tensor, float], Tensor], tuple[float, float]], ...] = (
        (F.adjust_brightness, _FACTOR),
        (F.adjust_contrast, _FACTOR),
        (F.adjust_saturation, _FACTOR),
        (F.adjust_hue, _HUE),
    )
    for place in rng.permutation(len(changes)):
        change, bounds = changes[place]
        clip = change(clip, float(rng.uniform(*bounds)))
    return clip


def _blur(clip: Tensor, *, radius: float) -> Tensor:
    """Gaussian blur of standard deviation `radius`; the kernel reaches three of them."""
    reach = min(math.ceil(3 * radius), min(clip.shape[-2:]) - 1)
    if reach < 1:
        return clip
    blurred: Tensor = F.gaussian_blur(clip, [2 * reach + 1] * 2, [radius] * 2)
    return blurred
