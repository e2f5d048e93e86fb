"""What the loop needs of a task."""

from typing import Protocol

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


class Task(Protocol):
    """A training objective: a batch in, a dictionary with `loss` out."""

    name: str

    @property
    def module(self) -> nn.Module:
        """What is trained, saved and wrapped for several processes."""
        ...

    def step(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The losses of one micro-batch on the device; `module` is `self.module`, maybe wrapped.

        Returns:
            `loss`, to be differentiated, and detached () tensors to be logged.
        """
        ...

    def layer_scale(self, name: str) -> float:
        """Factor on the learning rate of the parameter called `name`."""
        ...

    def after_step(self, step: int, *, total_steps: int) -> None:
        """Runs after optimiser step `step`, counted from 0."""
        ...


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Moves a batch; asynchronous where the loader pinned its memory."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
