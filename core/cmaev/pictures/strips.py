"""Strips: rows of frames, one clip below the other.

Shapes: T frames, H x W pixels, C = 3 channels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmaev.pictures.files import save_image

Frames = npt.NDArray[np.uint8]

_LEAST_PIXELS: Final = 96


def save_strip(clips: Sequence[Sequence[Frames]], path: Path) -> None:
    """Writes a PNG in which small frames are enlarged to be seen.

    Args:
        clips: rows of each clip, (T, H, W, C) each, all of the same shape.
        path: the PNG.
    """
    picture = Image.fromarray(np.concatenate([_rows(clip) for clip in clips]))
    factor = max(1, round(_LEAST_PIXELS / clips[0][0].shape[2]))
    size = (picture.width * factor, picture.height * factor)
    save_image(picture.resize(size, Image.Resampling.NEAREST), path)


def _rows(clip: Sequence[Frames]) -> Frames:
    """The rows of a clip with white lines between frames and a wider one below."""
    edged = [np.pad(row, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=255) for row in clip]
    joined = np.concatenate([np.concatenate(list(row), axis=1) for row in edged])
    return np.pad(joined, ((0, 2), (0, 0), (0, 0)), constant_values=255)
