"""Tubelet embedding and the fixed position table (method.md 1.1).

Shapes: B clips, C channels, N tokens in (t, h, w) order, V visible tokens, D width.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmaev.models.tokens import gather_tokens


class TubeletEmbed(nn.Module):
    """One linear map per tubelet, kept as a Conv3d whose kernel equals its stride.

    It is computed as one matrix product, for which every device has its fastest kernel.
    """

    def __init__(
        self, *, tubelet_size: int, patch_size: int, embed_dim: int, in_chans: int = 3
    ) -> None:
        super().__init__()
        self.tubelet_size = tubelet_size
        self.patch_size = patch_size
        kernel = (tubelet_size, patch_size, patch_size)
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel_size=kernel, stride=kernel)

    def forward(self, video: Tensor, visible: Tensor | None = None) -> Tensor:
        """Embeds all tubelets, or the visible ones only at the cost of those.

        Args:
            video: (B, C, T, H, W).
            visible: (B, V) indices into N, or None for all.

        Returns:
            (B, N, D), or (B, V, D).
        """
        x = self._tubelets(video)  # (B, N, C*P)
        if visible is not None:
            x = gather_tokens(x, visible)  # (B, V, C*P)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)  # (B, V, D)

    def _tubelets(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, N, C*P), in the order of the kernel's weights."""
        B, C, T, H, W = video.shape
        p0, p = self.tubelet_size, self.patch_size
        x = video.reshape(B, C, T // p0, p0, H // p, p, W // p, p)
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7)  # (B, t, h, w, C, p0, p1, p2)
        return x.reshape(B, -1, C * p0 * p * p)  # (B, N, C*P)


def sincos_table(num_positions: int, dim: int) -> Tensor:
    """Fixed 1-D table over the flattened token index: even columns sine, odd columns cosine.

    angle(n, j) = n / 10000^(2 * floor(j / 2) / dim), computed in fp64.

    Returns:
        (1, num_positions, dim) fp32.
    """
    columns = 2 * (np.arange(dim) // 2) / dim  # (dim,)
    angles = np.arange(num_positions)[:, None] / np.power(10000.0, columns)  # (N, dim)
    table = np.empty_like(angles)
    table[:, 0::2] = np.sin(angles[:, 0::2])
    table[:, 1::2] = np.cos(angles[:, 1::2])
    return torch.from_numpy(table).float()[None]  # (1, N, dim)
