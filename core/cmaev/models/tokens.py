"""Choosing tokens by index, with static shapes: no boolean indexing, no count read from the device.

Shapes: B clips, N tokens, V visible, M hidden, D width. Masks are (B, N) bool, True = hidden.
"""

import torch
from torch import Tensor


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Picks tokens by index: (B, N, D) and (B, V) -> (B, V, D)."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[-1]))


def split_mask(mask: Tensor, num_visible: int | None = None) -> tuple[Tensor, Tensor]:
    """Indices of visible and of hidden tokens, each in raster order.

    A stable sort with a static count keeps shapes static, which boolean indexing does not.

    Args:
        mask: (B, N) bool, True = hidden.
        num_visible: V; None reads it from the mask. A mask on the CPU is held to it; one on another
            device is trusted, since to look would stop the host.

    Returns:
        (B, V) and (B, N - V).

    Raises:
        ValueError: if the rows of the mask differ in their count, or from `num_visible`, or leave
            no token visible or none hidden.
    """
    if mask.dtype != torch.bool or mask.ndim != 2:
        raise ValueError(
            f"mask must be (B, N) bool, True = hidden; got {tuple(mask.shape)} {mask.dtype}"
        )
    if num_visible is None or (mask.device.type == "cpu" and not torch.compiler.is_compiling()):
        num_visible = _count_visible(mask, expected=num_visible)
    if not 0 < num_visible < mask.shape[1]:
        raise ValueError(
            f"{num_visible} of {mask.shape[1]} tokens are visible; at least one token must be "
            "visible and at least one hidden"
        )
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)  # (B, N), visible first
    return order[:, :num_visible], order[:, num_visible:]  # (B, V), (B, M)


def random_subset(index: Tensor, share: float) -> Tensor:
    """A random share of each row, in the order of the row: (B, M) -> (B, max(1, int(share*M))).

    The count is static; every row draws its own.
    """
    M = index.shape[1]
    count = max(1, int(share * M))
    if count == M:
        return index
    drawn = torch.rand(index.shape, device=index.device).argsort(dim=1)[:, :count]  # (B, count)
    return index.gather(1, drawn.sort(dim=1).values)  # (B, count)


def _count_visible(mask: Tensor, *, expected: int | None) -> int:
    counts = set((~mask).sum(dim=1).tolist())
    if len(counts) != 1:
        raise ValueError(
            "mask must hide the same number of tokens in every sample; its rows leave "
            f"{min(counts)} to {max(counts)} visible"
        )
    (count,) = counts
    if expected is not None and count != expected:
        raise ValueError(f"mask leaves {count} tokens visible, but num_visible is {expected}")
    return int(count)
