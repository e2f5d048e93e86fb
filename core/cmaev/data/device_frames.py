"""Frames that a device holds: views of whole batches are cut out there, none travels to it.

Shapes: B samples, N clips of a batch, T frames, H x W pixels of held frames, S of a clip, C = 3.
"""

import torch
from torch import Tensor

from cmaev.data.batch import Batch
from cmaev.data.device import crop_resize
from cmaev.data.errors import DataError
from cmaev.data.held import HeldFrames
from cmaev.data.memory import available_memory

# Entries of a batch that may be references instead of pixels (`cmaev.data.reader.HeldCrop`).
_VIEWS = ("online", "target", "video")
_BOX = slice(1, 5)
_NUMBERS = slice(5, None)


class DeviceFrames:
    """All frames of an index on one device."""

    def __init__(
        self, held: HeldFrames, device: torch.device, *, size: int, free: int | None = None
    ) -> None:
        """Copies the frames.

        Args:
            held: what to copy; may be dropped afterwards.
            device: where to.
            size: S, the side of the clips.
            free: bytes that the device has; asked for where None.

        Raises:
            DataError: if they take over half of the device's free memory.
        """
        needed, free = held.memory.array.nbytes, free_memory(device) if free is None else free
        if needed > free / 2:
            raise DataError(
                f"data.cache: the frames need {needed / 2**30:.1f} GiB, over half of the "
                f"{free / 2**30:.1f} GiB that are free on {device}; set it to memory or none"
            )
        self._device, self._size = device, size
        self._frames = torch.from_numpy(held.memory.array).to(device, copy=True)
        self._shapes, self._starts = held.shapes.tolist(), held.starts.tolist()

    def fill(self, batch: Batch) -> Batch:
        """Puts pixels in the place of references.

        Args:
            batch: views (B, …, 5 + T) int64 on the host, and whatever else.

        Returns:
            The batch, its views (B, …, T, S, S, C) uint8 on the device.
        """
        return {
            name: self._pixels(value) if name in _VIEWS else value for name, value in batch.items()
        }

    def _pixels(self, references: Tensor) -> Tensor:
        clips = references.flatten(0, -2)  # (N, 5 + T)
        rows = clips[:, 0].tolist()
        moved = self._moved(clips)  # (N, 5 + T)
        numbers, boxes = moved[:, _NUMBERS], moved[:, _BOX]  # (N, T), (N, 4)
        shapes = [self._shapes[row] for row in rows]
        height, width = (max(shape[side] for shape in shapes) for side in (1, 2))
        frames = self._frames.new_zeros(len(clips), clips.shape[1] - 5, height, width, 3)
        for place, row in enumerate(rows):
            taken = self._video(row)[numbers[place]]  # (T, H, W, C)
            frames[place, :, : taken.shape[1], : taken.shape[2]] = taken
        pixels = crop_resize(frames, boxes, size=self._size)  # (N, T, S, S, C)
        return pixels.view(*references.shape[:-1], *pixels.shape[1:])

    def _moved(self, numbers: Tensor) -> Tensor:
        """Copied in one piece and from pinned memory, or else the host might wait for the device.

        Of a part of a pinned tensor PyTorch makes a copy first, which is not pinned.
        """
        assert numbers.is_contiguous()
        if self._device.type == "cuda":
            numbers = numbers.pin_memory()
        return numbers.to(self._device, non_blocking=True)

    def _video(self, row: int) -> Tensor:
        start, end = self._starts[row : row + 2]
        return self._frames[start:end].view(*self._shapes[row], 3)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()
