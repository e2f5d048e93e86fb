"""Crops of training clips by PyTorch's uint8 kernels, several times as fast as Pillow.

Evaluation and serving keep to `cmaev.data.transforms`, which needs no PyTorch; the two are at most
a rounding of each of the two passes apart: two levels, and seldom more than one.
"""

import torch
import torch.nn.functional as F

from cmaev.data.transforms import Box, Frames, cut


def training_crop(frames: Frames, box: Box | None = None, *, size: int) -> Frames:
    """Cuts `box` out of every frame and resizes it to `size` square, antialiased bilinear.

    Args:
        frames: (T, H, W, 3) uint8.
        box: in pixels of the frames, inside them; None for the whole of them.
        size: S, the side of the result.

    Returns:
        (T, S, S, 3), contiguous.
    """
    inside = frames if box is None else cut(frames, box)
    if not inside.flags.writeable or min(inside.strides) < 0:
        inside = inside.copy()  # PyTorch takes neither
    # Channels last in memory, for which the kernel is made.
    clip = torch.from_numpy(inside).permute(0, 3, 1, 2)  # (T, 3, H, W)
    resized = F.interpolate(clip, size=(size, size), mode="bilinear", antialias=True)
    result: Frames = resized.permute(0, 2, 3, 1).numpy()  # (T, S, S, 3)
    return result
