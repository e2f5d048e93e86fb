"""The exponential moving average that a target branch is (equation 3)."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def move_average(
    average: nn.Module, online: nn.Module, *, momentum: float, taken: Tensor | None
) -> None:
    """Parameters become `momentum * average + (1 - momentum) * online`, in place.

    Args:
        average: what moves.
        online: where it moves to, of the same kind.
        momentum: mu, the share that stays.
        taken: () fp32; 0 leaves the average as it is, 1 moves it, and the host never learns which.
            None moves it.
    """
    moved = [part_here(parameter) for parameter in average.parameters()]
    towards = [part_here(parameter) for parameter in online.parameters()]
    if taken is None:
        torch._foreach_lerp_(moved, towards, 1.0 - momentum)
    else:
        torch._foreach_lerp_(moved, towards, [taken * (1.0 - momentum)] * len(moved))


def part_here(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: its part of a sharded one. Both branches are cut alike."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
