"""The exponential moving average that a target branch is (equation 3)."""

import torch
from torch import Tensor, nn


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
    moved: list[Tensor] = [*average.parameters()]
    towards: list[Tensor] = [*online.parameters()]
    if taken is None:
        torch._foreach_lerp_(moved, towards, 1.0 - momentum)
    else:
        torch._foreach_lerp_(moved, towards, [taken * (1.0 - momentum)] * len(moved))
