"""Crop, resize, flip and blur of whole batches of clips as two small matrices per clip.

Resizing and blurring are linear along rows and along columns, so a clip is changed by one matrix
for its rows and one for its columns: batched matrix products, of static shape, without a word from
the host. They run on any device; a cropped box and a flip are only other matrices.

Shapes: B clips, T frames, H x W pixels of the source, S x S of the result, C = 3 channels.
"""

import torch
from torch import Tensor


def crop_resize(frames: Tensor, boxes: Tensor, *, size: int, flip: Tensor | None = None) -> Tensor:
    """Cuts one box out of each clip and resizes it, antialiased bilinear as Pillow does.

    Args:
        frames: (B, T, H, W, C) uint8; clips of different sizes may be padded at right and bottom.
        boxes: (B, 4) left, top, width, height in pixels; inside the frame, padding left out.
        size: S, the side of the result.
        flip: (B,) bool, clips to mirror left and right; None mirrors none.

    Returns:
        (B, T, S, S, C) uint8, at most one level away from cutting and resizing with Pillow.
    """
    height, width = frames.shape[2:4]
    left, top, box_width, box_height = boxes.unbind(1)  # each (B,)
    rows = resize_matrix(top, box_height, source=height, size=size)  # (B, S, H)
    columns = resize_matrix(left, box_width, source=width, size=size)  # (B, S, W)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    planes = to_planes(frames, dtype=mixing_dtype(frames.device))  # (B, H, T, C, W)
    resized = mix_pixels(planes, rows, columns)  # (B, S, T, C, S)
    return to_frames(resized.round_().clamp_(0, 255).to(torch.uint8))  # (B, T, S, S, C)


def flip_clips(frames: Tensor, flip: Tensor) -> Tensor:
    """Mirrors the clips (B, T, H, W, C) whose `flip` (B,) is True."""
    return torch.where(flip[:, None, None, None, None], frames.flip(3), frames)


def resize_matrix(start: Tensor, length: Tensor, *, source: int, size: int) -> Tensor:
    """What each of `size` new pixels takes of the `source` old ones, for one side of each clip.

    A triangle around the new pixel's place, as wide as that pixel but at least two old ones; it
    sees nothing outside the box from `start` on, `length` long.

    Args:
        start: (B,) first pixel of the box.
        length: (B,) pixels of the box, at least 1.
        source: pixels of the frame along this side.
        size: pixels of the result.

    Returns:
        (B, size, source) fp32, each row adds up to 1.
    """
    start, length = start.float()[:, None, None], length.float()[:, None, None]
    old = torch.arange(source, device=start.device) + 0.5 - start  # (B, 1, source), from the box on
    new = torch.arange(size, device=start.device)[:, None] + 0.5  # (size, 1)
    scale = length / size
    weight = (1 - (old - new * scale).abs() / scale.clamp_min(1)).clamp_min(0)  # (B, size, source)
    weight = weight * ((old > 0) & (old < length))
    return weight / weight.sum(dim=2, keepdim=True)


def blur_matrix(radius: Tensor, *, size: int) -> Tensor:
    """A Gaussian of standard deviation `radius` around each pixel, mirrored at the edges.

    It reaches three standard deviations, and no further than the frame.

    Args:
        radius: (B,) in pixels; 0 leaves a clip as it is.
        size: pixels of the frame along this side.

    Returns:
        (B, size, size) fp32, each row adds up to 1.
    """
    sigma = radius.float()[:, None, None]
    reach = (3 * sigma).ceil().clamp_max(size - 1)  # (B, 1, 1)

    def gaussian(distance: Tensor) -> Tensor:
        weight = torch.exp(-0.5 * (distance / sigma.clamp_min(1e-3)).square())
        return weight * (distance <= reach)  # (B, size, size)

    pixel = torch.arange(size, device=radius.device)
    place = pixel[:, None]  # (size, 1)
    weight = gaussian((place - pixel).abs())
    weight = weight + gaussian(place + pixel) * (pixel > 0)  # seen in the mirror at the start
    weight = weight + gaussian(2 * (size - 1) - place - pixel) * (pixel < size - 1)  # at the end
    return weight / weight.sum(dim=2, keepdim=True)


def mix_pixels(planes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Replaces rows and columns of planes (B, H, T, C, W) by mixtures of them.

    Args:
        planes: as `to_planes` makes them.
        rows: (B, S, H).
        columns: (B, S, W).

    Returns:
        (B, S, T, C, S), in the dtype of `mixing_dtype`.
    """
    B, _, T, C, W = planes.shape
    S, dtype = rows.shape[1], mixing_dtype(planes.device)
    with torch.autocast(planes.device.type, enabled=False):
        mixed = rows.to(dtype) @ planes.flatten(2).to(dtype)  # (B, S, T*C*W)
        mixed = mixed.view(B, S * T * C, W) @ columns.mT.to(dtype)  # (B, S*T*C, S)
    return mixed.view(B, S, T, C, -1)  # (B, S, T, C, S)


def mixing_dtype(device: torch.device) -> torch.dtype:
    """What pixels are mixed in: fp16 on CUDA, whose matrix units sum products in fp32.

    fp16 holds all levels of 0 to 255, and weights to 11 bits: the result is a fraction of a level
    away from fp32, whose products are 14 times as slow on an H100 (docs/benchmarks/gpu.md).
    """
    return torch.float16 if device.type == "cuda" else torch.float32


def to_planes(frames: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, T, H, W, C) -> (B, H, T, C, W): both matrix products read it without a copy."""
    return frames.permute(0, 2, 1, 4, 3).to(dtype, memory_format=torch.contiguous_format)


def to_frames(planes: Tensor) -> Tensor:
    """(B, H, T, C, W) -> (B, T, H, W, C), the same memory."""
    return planes.permute(0, 2, 1, 4, 3)
