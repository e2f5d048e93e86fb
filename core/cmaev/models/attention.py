"""Pre-norm transformer blocks with VideoMAE's attention (method.md 1.1).

Shapes: B clips, N tokens, D width, h heads, d = D / h.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6
SCORES_IN_CACHE = 5_000_000
"""Attention scores of as many heads as one step of `attend` takes on."""


LinearMap = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Applies a weight (O, K) and a bias (O,) to (..., K), as `F.linear` does."""


class Attention(nn.Module):
    """Self-attention whose queries and values have a bias and whose keys have none."""

    linear: LinearMap
    """Makes queries, keys and values."""

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads ({num_heads}) must divide the width ({dim})")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)
        self.linear = F.linear

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        B, N, D = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))  # (3*D,)
        qkv = self.linear(x, self.qkv.weight, bias)  # (B, N, 3*D)
        qkv = qkv.reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (3, B, h, N, d)
        q, k, v = qkv.unbind(0)  # (B, h, N, d) each
        x = attend(q, k, v)  # (B, h, N, d)
        x = x.transpose(1, 2).reshape(B, N, D)  # (B, N, D)
        return self.proj(x)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention: three of (B, h, N, d) -> (B, h, N, d).

    PyTorch's fused kernel, but for bf16 on CPUs without gradient: there, plain products of a few
    heads at a time take two thirds of its time (docs/benchmarks/model.md).
    """
    plain = q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.is_grad_enabled()
    if not plain or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v)
    B, _, N, d = q.shape
    q = (q * d**-0.5).flatten(0, 1)  # (B*h, N, d)
    k, v = k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1)  # (B*h, d, N), (B*h, N, d)
    heads = max(1, SCORES_IN_CACHE // N**2)
    parts = zip(*(torch.split(x, heads) for x in (q, k, v)), strict=True)
    x = torch.cat([(q @ k).softmax(dim=-1) @ v for q, k, v in parts])  # (B*h, N, d)
    return x.reshape(B, -1, N, d)


class Block(nn.Module):
    """Attention, then an MLP, each after a layer norm and with stochastic depth."""

    def __init__(
        self, dim: int, *, num_heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, hidden_features=int(dim * mlp_ratio), act_layer=nn.GELU)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def block_stack(
    dim: int,
    *,
    depth: int,
    num_heads: int,
    mlp_ratio: float = 4.0,
    drop_path_rate: float = 0.0,
) -> nn.ModuleList:
    """`depth` blocks whose drop path rises linearly from 0 to `drop_path_rate`."""
    return nn.ModuleList(
        Block(dim, num_heads=num_heads, mlp_ratio=mlp_ratio, drop_path=rate)
        for rate in drop_path_rates(drop_path_rate, depth=depth)
    )


def drop_path_rates(last: float, *, depth: int) -> list[float]:
    """Stochastic depth of `depth` blocks: linear from 0 to `last`.

    Raises:
        ValueError: if `last` is no probability below 1.
    """
    if not 0 <= last < 1:
        raise ValueError(f"drop_path_rate ({last}) must be at least 0 and below 1")
    return [last * i / max(1, depth - 1) for i in range(depth)]
