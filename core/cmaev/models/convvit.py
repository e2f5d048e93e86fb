"""The convolutional hybrid: ConvMAE's encoder for video (method.md 2).

Two stages of masked convolutions on finer cells come before the transformer blocks. The mask of
the token grid is carried up to their cells in space, never in time.

Shapes: B clips, C channels, T frames, H x W pixels, N = t*h*w tokens, V visible tokens, D width;
M tiles of Y x X cells (see `conv_block.py`): all t slots, or V single tokens.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cmaev.models.attention import LAYER_NORM_EPS, Block, drop_path_rates
from cmaev.models.conv_block import DEPTHWISE_SIZE, CellConv, CellEmbed, ConvBlock, Depthwise
from cmaev.models.depthwise import (
    cell_windows,
    convolve,
    convolve_masked,
    convolve_visible,
    neighbour_table,
    visible_neighbours,
)
from cmaev.models.encoder import VideoEncoder, run_blocks, token_grid
from cmaev.models.tokens import gather_tokens
from cmaev.models.tubelet import sincos_table


class ConvViTEncoder(VideoEncoder):
    """Two convolutional stages, then pre-norm transformer blocks and an optional final norm.

    Args:
        img_size: height and width of a clip in pixels.
        num_frames: frames of a clip.
        strides: pixels of a stage-1 cell, then cells joined on the way to stages 2 and 3.
        tubelet_size: frames of a tubelet; they are joined on the way to stage 1.
        embed_dims: widths of the three stages.
        depths: blocks of the three stages.
        num_heads: heads of the transformer blocks.
        mlp_ratio: hidden width of all MLPs over the stage's.
        temporal_kernel: slots that a depthwise convolution sees, 1 or 3.
        multiscale: add what stages 1 and 2 found to the tokens (pretraining only).
        sparse: with `visible`, compute stages 1 and 2 for visible cells only. False is the dense
            reference: the same results at the cost of all cells.
        drop_path_rate: stochastic depth of the last block; it rises linearly over all stages.
        final_norm: whether tokens pass a layer norm at the end.

    Raises:
        ValueError: for a clip that does not fit the patches, or an unknown temporal kernel.
    """

    pos_embed: Tensor
    neighbours: Tensor

    def __init__(
        self,
        *,
        img_size: int = 224,
        num_frames: int = 16,
        strides: tuple[int, int, int] = (4, 2, 2),
        tubelet_size: int = 2,
        embed_dims: tuple[int, int, int] = (256, 384, 768),
        depths: tuple[int, int, int] = (2, 2, 11),
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        temporal_kernel: int = 1,
        multiscale: bool = True,
        sparse: bool = True,
        drop_path_rate: float = 0.0,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        if temporal_kernel not in (1, 3):
            raise ValueError(f"temporal_kernel ({temporal_kernel}) must be 1 or 3")
        self.embed_dim = dim = embed_dims[-1]
        self.tubelet_size = tubelet_size
        self.patch_size = strides[0] * strides[1] * strides[2]
        self.grid = token_grid(
            num_frames=num_frames,
            img_size=img_size,
            tubelet_size=tubelet_size,
            patch_size=self.patch_size,
        )
        self.sides = (strides[1] * strides[2], strides[2])
        self.sparse = sparse

        dim1, dim2, _ = embed_dims
        self.patch_embed1 = CellEmbed(3, dim1, size=strides[0], frames=tubelet_size)
        self.patch_embed2 = CellEmbed(dim1, dim2, size=strides[1])
        self.patch_embed3 = CellEmbed(dim2, dim, size=strides[2])
        self.patch_embed4 = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.patch_embed3.proj.weight.data.flatten(1))

        rates = drop_path_rates(drop_path_rate, depth=sum(depths))
        rates1, rates2, rates3 = (rates[start : start + n] for start, n in _spans(depths))
        conv_block = partial(ConvBlock, temporal_kernel=temporal_kernel, mlp_ratio=mlp_ratio)
        block = partial(Block, num_heads=num_heads, mlp_ratio=mlp_ratio)
        self.blocks1 = nn.ModuleList(conv_block(dim1, drop_path=rate) for rate in rates1)
        self.blocks2 = nn.ModuleList(conv_block(dim2, drop_path=rate) for rate in rates2)
        self.blocks3 = nn.ModuleList(block(dim, drop_path=rate) for rate in rates3)
        if multiscale:
            self.stage1_output_decode = CellConv(dim1, dim, size=self.sides[0])
            self.stage2_output_decode = CellConv(dim2, dim, size=self.sides[1])
        self.multiscale = multiscale
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS) if final_norm else nn.Identity()

        table = neighbour_table(self.grid, frames=temporal_kernel)
        self.register_buffer("neighbours", table, persistent=False)
        self.register_buffer("pos_embed", sincos_table(self.num_tokens, dim), persistent=False)

    def forward_blocks(self, video: Tensor, visible: Tensor | None = None) -> Tensor:
        """The tokens before the final norm; arguments and shapes as in `forward`."""
        self.check_clip(video)
        run = partial(run_blocks, checkpointing=self.grad_checkpointing)
        depthwise1, depthwise2 = self.depthwise(visible)

        x = self.patch_embed1(self.tiles(video, visible))  # (B, M, Y, X, dim1)
        x = stage1 = run(self.blocks1, x, depthwise1)
        x = self.patch_embed2(x)  # (B, M, Y/2, X/2, dim2)
        x = stage2 = run(self.blocks2, x, depthwise2)
        x = self.tokens(self.patch_embed3(x), visible)  # (B, V, D)
        x = self.patch_embed4(x)

        positions = self.pos_embed.expand(len(video), -1, -1)  # (B, N, D)
        if visible is not None:
            positions = gather_tokens(positions, visible)  # (B, V, D)
        x = run(self.blocks3, x + positions.to(x.dtype))
        if self.multiscale:
            x = x + self.tokens(self.stage1_output_decode(stage1), visible)
            x = x + self.tokens(self.stage2_output_decode(stage2), visible)
        return x

    def tiles(self, video: Tensor, visible: Tensor | None) -> Tensor:
        """Pixels, channels last: (B, C, T, H, W) -> (B, M, Y, X, C*tubelet), tubelet fastest."""
        B, C, _, H, W = video.shape
        slots, height, width = self.grid
        if visible is None or not self.sparse:
            x = video.reshape(B, C, slots, self.tubelet_size, H, W)
            return x.permute(0, 2, 4, 5, 1, 3).flatten(4)  # (B, t, H, W, C*tubelet)
        p = self.patch_size
        x = video.reshape(B, C, slots, self.tubelet_size, height, p, width, p)
        x = x.permute(0, 2, 4, 6, 5, 7, 1, 3)  # (B, t, h, w, p, p, C, tubelet)
        clip = torch.arange(B, device=video.device)[:, None]  # (B, 1)
        slot, row = visible // (height * width), visible // width % height  # (B, V) each
        return x[clip, slot, row, visible % width].flatten(4)  # (B, V, p, p, C*tubelet)

    def tokens(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """One cell a token: (B, M, Y, X, D) -> (B, N, D), or (B, V, D)."""
        x = x.flatten(1, 3)
        return x if visible is None or self.sparse else gather_tokens(x, visible)

    def depthwise(self, visible: Tensor | None) -> tuple[Depthwise, Depthwise]:
        """How stages 1 and 2 convolve."""
        if visible is None:
            return convolve, convolve
        first, second = self.sides
        if self.sparse:
            near = visible_neighbours(self.neighbours, visible)  # (B, V, k, 3, 3)
            windows = partial(cell_windows, near, reach=DEPTHWISE_SIZE // 2)
            return (
                partial(convolve_visible, windows=windows(side=first)),
                partial(convolve_visible, windows=windows(side=second)),
            )
        keep = torch.zeros(len(visible), self.num_tokens, dtype=torch.bool, device=visible.device)
        keep = keep.scatter(1, visible, True).reshape(-1, *self.grid)  # (B, t, h, w)
        return (
            partial(convolve_masked, keep=_enlarge(keep, first)),
            partial(convolve_masked, keep=_enlarge(keep, second)),
        )

    @property
    def num_layers(self) -> int:
        """One for each transformer block."""
        return len(self.blocks3)

    def layer_id(self, name: str) -> int:
        """Embeddings and stages 1 and 2 are 0, transformer block i is i + 1 (method.md 2.1)."""
        part, *rest = name.split(".")
        if part == "blocks3":
            return int(rest[0]) + 1
        early = part.startswith("patch_embed") or part in {"blocks1", "blocks2"}
        return 0 if early else self.num_layers + 1


def _spans(depths: Sequence[int]) -> list[tuple[int, int]]:
    """First block and number of blocks of each stage."""
    return [(sum(depths[:stage]), depth) for stage, depth in enumerate(depths)]


def _enlarge(keep: Tensor, side: int) -> Tensor:
    """The mask of tokens for their cells: (B, t, h, w) -> (B, t, h*side, w*side, 1)."""
    return keep.repeat_interleave(side, 2).repeat_interleave(side, 3)[..., None]
