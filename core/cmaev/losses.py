"""The two losses of CMAE-V: pixel reconstruction (L_r) and InfoNCE (L_c).

Shapes: B clips, K keys, N tokens, C channels, P = tubelet * patch * patch pixels per channel,
D width.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Final, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

PIXEL_EPS: Final = 1e-6
"""Added to the standard deviation of a tubelet's pixels, on a scale of 0 to 1."""


def tubelets(video: Tensor, *, tubelet_size: int, patch_size: int) -> Tensor:
    """Cuts a video into its tubelets, pixels before channels.

    Args:
        video: (B, C, T, H, W).
        tubelet_size: frames of a tubelet.
        patch_size: height and width of a tubelet.

    Returns:
        (B, N, P, C) with N in (t, h, w) order and P in (frame, row, column) order.
    """
    B, C, T, H, W = video.shape
    t, h, w = T // tubelet_size, H // patch_size, W // patch_size
    x = video.reshape(B, C, t, tubelet_size, h, patch_size, w, patch_size)
    x = x.permute(0, 2, 4, 6, 3, 5, 7, 1)  # (B, t, h, w, p0, p1, p2, C)
    return x.reshape(B, t * h * w, tubelet_size * patch_size * patch_size, C)  # (B, N, P, C)


def normalise_tubelets(pixels: Tensor, *, eps: float | Tensor = PIXEL_EPS) -> Tensor:
    """Standardises each tubelet and channel over its pixels (method.md 1.3).

    The standard deviation is the unbiased one, and `eps` is added to it, not to the variance.

    Args:
        pixels: (B, N, P, C).
        eps: keeps flat tubelets finite; one for all channels, or (C,). Pixels that were divided by
            `s` are standardised to the same values with `eps / s`.

    Returns:
        (B, N, P, C).
    """
    mean = pixels.mean(dim=-2, keepdim=True)  # (B, N, 1, C)
    std = pixels.std(dim=-2, keepdim=True, correction=1)  # (B, N, 1, C)
    return (pixels - mean) / (std + eps)


def pixel_targets(
    video: Tensor,
    *,
    tubelet_size: int,
    patch_size: int,
    decoded: Tensor | None = None,
    eps: float | Tensor = PIXEL_EPS,
) -> Tensor:
    """What the decoder should predict: the standardised pixels of tubelets, channel fastest.

    Args:
        video: (B, C, T, H, W) with values in [0, 1], or divided by something and `eps` as well.
        tubelet_size: frames of a tubelet.
        patch_size: height and width of a tubelet.
        decoded: (B, M) the tubelets that are asked for, at the cost of those; None for all.
        eps: see `normalise_tubelets`.

    Returns:
        (B, N, P*C), or (B, M, P*C), fp32.
    """
    pixels = tubelets(video, tubelet_size=tubelet_size, patch_size=patch_size)  # (B, N, P, C)
    if decoded is not None:
        pixels = pixels.take_along_dim(decoded[:, :, None, None], dim=1)  # (B, M, P, C)
    return normalise_tubelets(pixels.float(), eps=eps).flatten(2)  # (B, M, P*C)


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
