"""The ViT encoder over tubelets (method.md 1.1).

Shapes: B clips, C channels, N = t*h*w tokens, V visible tokens, D width.
"""

from torch import Tensor, nn

from cmaev.models.attention import LAYER_NORM_EPS, block_stack
from cmaev.models.tubelet import TubeletEmbed, gather_tokens, sincos_table


class ViTEncoder(nn.Module):
    """Tubelet embedding, fixed positions, pre-norm blocks and an optional final norm."""

    pos_embed: Tensor

    def __init__(
        self,
        *,
        img_size: int = 224,
        num_frames: int = 16,
        patch_size: int = 16,
        tubelet_size: int = 2,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        if img_size % patch_size:
            raise ValueError(
                f"img_size ({img_size}) must be a multiple of patch_size ({patch_size})"
            )
        if num_frames % tubelet_size:
            raise ValueError(f"num_frames ({num_frames}) must be a multiple of {tubelet_size}")
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.tubelet_size = tubelet_size
        side = img_size // patch_size
        self.grid = (num_frames // tubelet_size, side, side)
        self.patch_embed = TubeletEmbed(
            tubelet_size=tubelet_size, patch_size=patch_size, embed_dim=embed_dim
        )
        self.blocks = block_stack(
            embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
        )
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS) if final_norm else nn.Identity()
        table = sincos_table(self.num_tokens, embed_dim)
        self.register_buffer("pos_embed", table, persistent=False)

    @property
    def num_tokens(self) -> int:
        """N, the tokens of a whole clip."""
        slots, height, width = self.grid
        return slots * height * width

    def forward(self, video: Tensor, visible: Tensor | None = None) -> Tensor:
        """Encodes all tokens of a clip, or the visible ones only.

        Args:
            video: (B, C, T, H, W), normalised.
            visible: (B, V) token indices, or None for all.

        Returns:
            (B, N, D), or (B, V, D).
        """
        return self.norm(self.forward_blocks(video, visible))

    def forward_blocks(self, video: Tensor, visible: Tensor | None = None) -> Tensor:
        """The tokens before the final norm; arguments and shapes as in `forward`."""
        positions = self.pos_embed.expand(video.shape[0], -1, -1)  # (B, N, D)
        if visible is not None:
            positions = gather_tokens(positions, visible)  # (B, V, D)
        x = self.patch_embed(video, visible)  # (B, V, D)
        x = x + positions.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return x
