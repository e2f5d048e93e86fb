"""The pixel decoder (method.md 1.2).

Shapes: B clips, N tokens, V visible, M = N - V hidden, D width of the decoder.
"""

from torch import Tensor, nn

from cmaev.models.attention import LAYER_NORM_EPS, block_stack
from cmaev.models.encoder import run_blocks


class PixelDecoder(nn.Module):
    """Blocks over all tokens, visible first; the head reads the hidden ones only."""

    def __init__(self, *, embed_dim: int, depth: int, num_heads: int, num_outputs: int) -> None:
        super().__init__()
        self.blocks = block_stack(embed_dim, depth=depth, num_heads=num_heads)
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(embed_dim, num_outputs)
        self.grad_checkpointing = False

    def forward(self, x: Tensor, *, num_hidden: int) -> Tensor:
        """(B, N, D) with the hidden tokens last -> (B, M, num_outputs)."""
        x = run_blocks(self.blocks, x, checkpointing=self.grad_checkpointing)
        return self.head(self.norm(x[:, -num_hidden:]))  # (B, M, num_outputs)

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Whether blocks keep only their input and run again in the backward pass."""
        self.grad_checkpointing = enabled
