"""Weights of classes in a loss.

Shapes: n training videos, K classes.
"""

import torch
from torch import Tensor


def class_weights(label: Tensor, *, num_classes: int, balanced: bool) -> Tensor:
    """(K,) factors whose mean over the videos is 1; balanced, every class weighs the same.

    Args:
        label: (n,) classes of the training videos.
        num_classes: K.
        balanced: all factors are 1 where not.
    """
    if not balanced:
        return torch.ones(num_classes, device=label.device)
    counts = torch.bincount(label, minlength=num_classes)  # (K,)
    present = counts > 0
    return torch.where(present, len(label) / (present.sum() * counts.clamp(min=1)), 0.0)
