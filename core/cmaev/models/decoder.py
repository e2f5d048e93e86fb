"""The pixel decoder (method.md 1.2) and CMAE's feature decoder (method.md 3).

Both see all tokens, visible first, and stand a learned token in for each hidden one.

Shapes: B clips, N tokens, V visible, M hidden, D width of the encoder, d width of a decoder.
"""

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from cmaev.models.attention import LAYER_NORM_EPS, block_stack
from cmaev.models.encoder import run_blocks
from cmaev.models.init import init_pretraining_
from cmaev.models.tokens import gather_tokens
from cmaev.models.tubelet import sincos_table


class PixelDecoder(nn.Module):
    """Blocks over all tokens, visible first; the head reads the hidden ones only."""

    def __init__(self, *, embed_dim: int, depth: int, num_heads: int, num_outputs: int) -> None:
        super().__init__()
        self.blocks = block_stack(embed_dim, depth=depth, num_heads=num_heads)
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(embed_dim, num_outputs)
        self.grad_checkpointing = False

    def forward(self, x: Tensor, *, num_hidden: int) -> Tensor:
        """(B, N, d) with the hidden tokens last -> (B, M, num_outputs)."""
        x = run_blocks(self.blocks, x, checkpointing=self.grad_checkpointing)
        return self.head(self.norm(x[:, -num_hidden:]))  # (B, M, num_outputs)

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Whether blocks keep only their input and run again in the backward pass."""
        self.grad_checkpointing = enabled


class FeatureDecoder(nn.Module):
    """Completes the visible tokens to features of the whole clip, in the encoder's width."""

    pos_embed: Tensor

    def __init__(
        self, dim: int, *, num_tokens: int, embed_dim: int, depth: int, num_heads: int
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, embed_dim, bias=False)
        self.blocks = block_stack(embed_dim, depth=depth, num_heads=num_heads)
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(embed_dim, dim)
        init_pretraining_(self)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        init_mask_token_(self.mask_token)
        table = sincos_table(num_tokens, embed_dim)
        self.register_buffer("pos_embed", table, persistent=False)
        self.grad_checkpointing = False

    def forward(self, z: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """(B, V, D), (B, V), (B, M) -> (B, N, D), visible tokens first."""
        x = with_hidden_tokens(self.embed(z), visible, hidden, self.mask_token, self.pos_embed)
        x = run_blocks(self.blocks, x, checkpointing=self.grad_checkpointing)  # (B, N, d)
        return self.head(self.norm(x))  # (B, N, D)

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Whether blocks keep only their input and run again in the backward pass."""
        self.grad_checkpointing = enabled


def with_hidden_tokens(
    x: Tensor, visible: Tensor, hidden: Tensor, mask_token: Tensor, pos_embed: Tensor
) -> Tensor:
    """Adds positions to the visible tokens and appends a mask token for each hidden one.

    Args:
        x: (B, V, d) visible tokens.
        visible: (B, V) their places among N.
        hidden: (B, M) places of the tokens to append.
        mask_token: (1, 1, d).
        pos_embed: (1, N, d).

    Returns:
        (B, V + M, d).
    """
    positions = pos_embed.expand(x.shape[0], -1, -1)  # (B, N, d)
    x_visible = x + gather_tokens(positions, visible).to(x.dtype)  # (B, V, d)
    x_hidden = (mask_token + gather_tokens(positions, hidden)).to(x.dtype)  # (B, M, d)
    return torch.cat((x_visible, x_hidden), dim=1)  # (B, V + M, d)


def init_mask_token_(mask_token: Tensor) -> None:
    """Normal of std .02, truncated at one standard deviation (method.md 1.1)."""
    trunc_normal_(mask_token, std=0.02, a=-0.02, b=0.02)
