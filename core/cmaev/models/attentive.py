"""The attentive probe: one learned query attends to the tokens of a frozen encoder.

Shapes: B clips, N = t*h*w tokens, D width, h heads, d = D / h, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmaev.models.attention import LAYER_NORM_EPS
from cmaev.models.tubelet import sincos_table


class AttentiveProbe(nn.Module):
    """Layer norm, cross-attention of one query, linear head.

    Keys also carry the fixed table of positions, so that heads can choose tokens by time and place
    as well as by what they show.
    """

    positions: Tensor

    def __init__(self, dim: int, *, num_tokens: int, num_classes: int, num_heads: int = 8) -> None:
        """Builds the probe.

        Args:
            dim: D, the width of the tokens.
            num_tokens: N.
            num_classes: K.
            num_heads: h.

        Raises:
            ValueError: if the heads do not divide the width.
        """
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads ({num_heads}) must divide the width ({dim})")
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.query = nn.Parameter(torch.empty(num_heads, 1, dim // num_heads))
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.head = nn.Linear(dim, num_classes)
        # Heads that begin with even attention all see the mean, and learn to look away slowly.
        nn.init.normal_(self.query)
        self.register_buffer("positions", sincos_table(num_tokens, dim), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, K) logits."""
        B, N, D = tokens.shape
        x = self.norm(tokens)
        k = self.key(x + self.positions)  # (B, N, D)
        k, v = (
            part.reshape(B, N, self.num_heads, -1).transpose(1, 2) for part in (k, self.value(x))
        )  # (B, h, N, d) each
        q = self.query.expand(B, -1, -1, -1)  # (B, h, 1, d)
        x = F.scaled_dot_product_attention(q, k, v)  # (B, h, 1, d)
        return self.head(x.reshape(B, D))  # (B, K)
