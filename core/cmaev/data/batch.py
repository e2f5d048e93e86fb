"""Samples stacked into tensors, and how a batch goes from one process to another uncopied."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from cmaev.data.memory import SharedBytes
from cmaev.data.samples import Sample

Batch = dict[str, Tensor]
Layout = tuple[tuple[str, str, tuple[int, ...], int], ...]
"""Name, dtype, shape (B, …) and first byte of each array of a batch."""

_ALIGNMENT: Final = 64


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """A batch in memory that processes share."""

    memory: SharedBytes
    layout: Layout

    def batch(self) -> Batch:
        """The tensors, which keep the memory mapped."""
        tensors: Batch = {}
        for name, dtype, shape, start in self.layout:
            count = int(np.prod(shape))
            part = self.memory.array[start : start + count * np.dtype(dtype).itemsize]
            tensors[name] = torch.from_numpy(part.view(dtype).reshape(shape))
        return tensors


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks samples into tensors (B, …)."""
    return {
        name: torch.from_numpy(np.stack([sample[name] for sample in samples]))
        for name in samples[0]
    }


def pack(samples: Sequence[Sample]) -> PackedBatch:
    """Stacks samples right into shared memory."""
    layout, end = [], 0
    for name, first in samples[0].items():
        shape = (len(samples), *first.shape)
        layout.append((name, first.dtype.str, shape, end))
        end += -(-int(np.prod(shape)) * first.dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
    packed = PackedBatch(SharedBytes(end), tuple(layout))
    for name, tensor in packed.batch().items():
        np.stack([sample[name] for sample in samples], out=tensor.numpy())
    return packed
