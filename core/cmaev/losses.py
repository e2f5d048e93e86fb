"""The two losses of CMAE-V: pixel reconstruction (L_r) and InfoNCE (L_c).

Shapes: B clips, K keys, N tokens, C channels, P pixels of a tubelet and channel, D width.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def reconstruction_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """L_r (equation 7): mean squared error over hidden tokens and their pixels.

    Args:
        prediction: (B, N_hidden, P*C).
        target: (B, N_hidden, P*C).

    Returns:
        () fp32.
    """
    return F.mse_loss(prediction.float(), target.float())


class Contrast(NamedTuple):
    """InfoNCE and what to watch beside it; all () and all but `loss` detached."""

    loss: Tensor
    positive_similarity: Tensor
    negative_similarity: Tensor
    instance_accuracy: Tensor


def mean_contrast(first: Contrast, second: Contrast) -> Contrast:
    """The mean of two directions."""
    return Contrast(*((a + b) / 2 for a, b in zip(first, second, strict=True)))


def info_nce(query: Tensor, key: Tensor, *, temperature: float) -> Contrast:
    """L_c (equation 5): each clip must find its own target among those of the global batch.

    Computed in fp32 on cosine similarities, under autocast too. Keys of all ranks are gathered,
    without gradient.

    Args:
        query: (B, D) predictions of the online branch.
        key: (B, D) projections of the target branch; B is the same on every rank.
        temperature: tau.

    Returns:
        The loss, mean similarity of positives and of negatives, and top-1 instance accuracy.
    """
    q = F.normalize(query.float(), dim=-1)  # (B, D)
    k = gather_keys(F.normalize(key.detach().float(), dim=-1))  # (K, D)
    with _without_autocast(q.device):  # it would make the product bf16
        similarity = q @ k.T  # (B, K)
    B, K = similarity.shape
    offset = B * dist.get_rank() if distributed() else 0
    positive = torch.arange(B, device=q.device) + offset  # (B,)
    loss = F.cross_entropy(similarity / temperature, positive)
    with torch.no_grad():
        own = similarity.gather(1, positive[:, None]).sum()  # ()
        return Contrast(
            loss=loss,
            positive_similarity=own / B,
            negative_similarity=(similarity.sum() - own) / max(1, B * (K - 1)),
            instance_accuracy=(similarity.argmax(dim=1) == positive).float().mean(),
        )


def _without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Keeps the dtypes of operands; FLOPs are counted on `meta`, which knows no autocast."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@torch.no_grad()
def feature_std(feature: Tensor) -> Tensor:
    """Mean over channels of the standard deviation of unit-length features (B, D), a () tensor.

    Over the clips of all processes, of which each has as many. Near 1 / sqrt(D) where clips differ,
    near 0 where all features are the same: collapse.
    """
    unit = gather_keys(F.normalize(feature.float(), dim=-1))  # (K, D)
    return unit.std(dim=0, correction=0).mean()


def gather_keys(key: Tensor) -> Tensor:
    """Keys of all ranks in rank order, (K, D) from (B, D); the identity in a single process."""
    if not distributed():
        return key
    parts = [torch.empty_like(key) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, key.contiguous())
    return torch.cat(parts)  # (K, D)


def distributed() -> bool:
    """Whether this run has more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
