"""What the loop needs of a task."""

from typing import Final, Protocol

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]

# Draws that decide which functions run: reading them must not wait for the device.
HOST_ONLY: Final = frozenset({"rand_augment"})


class Task(Protocol):
    """A training objective: a batch in, a dictionary with `loss` out."""

    name: str

    @property
    def module(self) -> nn.Module:
        """What is trained, saved and wrapped for several processes."""
        ...

    @property
    def inputs(self) -> nn.Module:
        """What batches pass on the device before `module`."""
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

    def after_step(self, step: int, *, total_steps: int, taken: Tensor) -> None:
        """Runs after optimiser step `step`, counted from 0.

        Args:
            step: its number.
            total_steps: of the run.
            taken: () fp32 on the device, 1 where the step was taken; 0 where its gradient was not
                finite, so that it was left out and nothing may change.
        """
        ...


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Moves a batch but for what the host reads; asynchronous where its memory is pinned."""
    return {
        name: tensor if name in HOST_ONLY else tensor.to(device, non_blocking=True)
        for name, tensor in batch.items()
    }
