"""Convolutional blocks of the hybrid (method.md 2.1, 2.4), channels last.

Shapes: B clips, M tiles of a clip, Y x X cells of a tile, C and D widths. A tile is a whole time
slot, or one visible token; only the depthwise convolution can tell them apart.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

DEPTHWISE_SIZE = 5
"""Height and width of the depthwise kernel."""

Depthwise = Callable[[Tensor, nn.Conv3d], Tensor]
"""Applies a depthwise convolution to tiles; see `depthwise.py` for the ways to do it."""


class CellConv(nn.Conv3d):
    """A convolution whose stride equals its kernel: one matrix product over cells.

    Weights have the shape and the initial values of a Conv3d, as ConvMAE's files do.
    """

    def __init__(self, in_dim: int, out_dim: int, *, size: int = 1, frames: int = 1) -> None:
        kernel = (frames, size, size)
        super().__init__(in_dim, out_dim, kernel_size=kernel, stride=kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, Y, X, C) -> (B, M, Y/size, X/size, D); frames lie in C, fastest."""
        size = self.kernel_size[1]
        weight = self.weight.permute(0, 3, 4, 1, 2).flatten(1)  # (D, size*size*C)
        if size > 1:
            B, M, Y, X, C = x.shape
            x = x.reshape(B, M, Y // size, size, X // size, size, C)
            x = x.transpose(3, 4).flatten(4)  # (B, M, y, x, size*size*C)
        return F.linear(x, weight, self.bias)  # (B, M, y, x, D)


class CellEmbed(nn.Module):
    """To coarser cells: convolution, layer norm, GELU."""

    def __init__(self, in_dim: int, out_dim: int, *, size: int, frames: int = 1) -> None:
        super().__init__()
        self.proj = CellConv(in_dim, out_dim, size=size, frames=frames)
        self.norm = nn.LayerNorm(out_dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, Y, X, C) -> (B, M, Y/size, X/size, D)."""
        x = self.proj(x)  # (B, M, Y/size, X/size, D)
        cells = self.act(self.norm(x))
        # Under autocast, norms give fp32; without gradient, blocks need not carry that along.
        return cells if torch.is_grad_enabled() else cells.to(x.dtype)


class ConvMlp(nn.Module):
    """Two 1x1x1 convolutions around a GELU."""

    def __init__(self, dim: int, *, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = CellConv(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = CellConv(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, Y, X, C) -> (B, M, Y, X, C)."""
        return self.fc2(self.act(self.fc1(x)))


class ConvBlock(nn.Module):
    """A transformer block whose attention is a depthwise convolution between two 1x1x1 ones."""

    def __init__(
        self, dim: int, *, temporal_kernel: int, mlp_ratio: float = 4.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        kernel = (temporal_kernel, DEPTHWISE_SIZE, DEPTHWISE_SIZE)
        reach = DEPTHWISE_SIZE // 2
        self.norm1 = nn.LayerNorm(dim)
        self.conv1 = CellConv(dim, dim)
        self.attn = nn.Conv3d(
            dim, dim, kernel, padding=(temporal_kernel // 2, reach, reach), groups=dim
        )
        self.conv2 = CellConv(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = ConvMlp(dim, hidden_dim=int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, depthwise: Depthwise) -> Tensor:
        """(B, M, Y, X, C) -> (B, M, Y, X, C)."""
        y = depthwise(self.conv1(self.norm1(x)), self.attn)
        x = x + self.drop_path(self.conv2(y))
        return x + self.drop_path(self.mlp(self.norm2(x)))
