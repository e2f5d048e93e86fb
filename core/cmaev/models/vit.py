"""The ViT encoder over tubelets (method.md 1.1).

Shapes: B clips, C channels, N = t*h*w tokens, V visible tokens, D width.
"""

from torch import Tensor, nn

from cmaev.models.attention import LAYER_NORM_EPS, block_stack
from cmaev.models.encoder import VideoEncoder, run_blocks, token_grid
from cmaev.models.tokens import gather_tokens
from cmaev.models.tubelet import TubeletEmbed, sincos_table


class ViTEncoder(VideoEncoder):
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
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.tubelet_size = tubelet_size
        self.grid = token_grid(
            num_frames=num_frames,
            img_size=img_size,
            tubelet_size=tubelet_size,
            patch_size=patch_size,
        )
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

    def forward_blocks(self, video: Tensor, visible: Tensor | None = None) -> Tensor:
        """The tokens before the final norm; arguments and shapes as in `forward`."""
        self.check_clip(video)
        positions = self.pos_embed.expand(video.shape[0], -1, -1)  # (B, N, D)
        if visible is not None:
            positions = gather_tokens(positions, visible)  # (B, V, D)
        x = self.patch_embed(video, visible)  # (B, V, D)
        x = x + positions.to(x.dtype)
        return run_blocks(self.blocks, x, checkpointing=self.grad_checkpointing)

    @property
    def num_layers(self) -> int:
        """One for each block."""
        return len(self.blocks)

    def layer_id(self, name: str) -> int:
        """Embedding 0, block i -> i + 1, norm `num_layers + 1` (method.md 5)."""
        part, *rest = name.split(".")
        if part == "patch_embed":
            return 0
        return int(rest[0]) + 1 if part == "blocks" else self.num_layers + 1
