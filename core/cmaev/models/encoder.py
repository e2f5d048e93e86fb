"""What pretraining and finetuning need of a video encoder.

Shapes: B clips, C channels, T frames, H x W pixels, N = t*h*w tokens, V visible tokens, D width.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ALL_CLIPS = 2**31 - 1
MALLOC_KEEPS = 32 * 2**20
"""glibc maps blocks of more bytes than this afresh, whatever was freed before."""


class VideoEncoder(nn.Module, ABC):
    """A clip in, one token for each of its tubelets out."""

    embed_dim: int
    """D."""
    patch_size: int
    """Height and width of a tubelet, in pixels."""
    tubelet_size: int
    """Frames of a tubelet."""
    grid: tuple[int, int, int]
    """Tokens along (t, h, w)."""
    norm: nn.Module
    """The final norm, or the identity."""
    grad_checkpointing: bool = False
    """Whether blocks keep only their input and run again in the backward pass."""

    @property
    def num_tokens(self) -> int:
        """N, the tokens of a whole clip."""
        slots, height, width = self.grid
        return slots * height * width

    @property
    @abstractmethod
    def num_layers(self) -> int:
        """Layers that learn at rates of their own, the embedding aside."""

    def forward(self, video: Tensor, visible: Tensor | None = None) -> Tensor:
        """Encodes all tokens of a clip, or the visible ones only.

        Args:
            video: (B, C, T, H, W), normalised.
            visible: (B, V) token indices, or None for all.

        Returns:
            (B, N, D), or (B, V, D).

        Raises:
            ValueError: if the clip is not of the shape that the encoder was built for.
        """
        return self.norm(self.forward_blocks(video, visible))

    def check_clip(self, video: Tensor) -> None:
        """Holds a batch of clips to the shape that the encoder was built for.

        Raises:
            ValueError: naming both shapes, or the type of values that are no floats.
        """
        t, h, w = self.grid
        expected = (3, t * self.tubelet_size, h * self.patch_size, w * self.patch_size)
        if video.ndim != 5 or tuple(video.shape[1:]) != expected:
            raise ValueError(
                f"video must be (B, C, T, H, W) = (B, {', '.join(map(str, expected))}), got "
                f"{tuple(video.shape)}; build the model with the clips' num_frames and img_size"
            )
        if not video.is_floating_point():
            raise ValueError(
                f"video must be normalised floats, got {video.dtype}; see models.frames"
            )

    @abstractmethod
    def forward_blocks(self, video: Tensor, visible: Tensor | None = None) -> Tensor:
        """The tokens before the final norm; arguments and shapes as in `forward`."""

    @abstractmethod
    def layer_id(self, name: str) -> int:
        """The layer a parameter of this encoder belongs to, for layer-wise rates.

        Args:
            name: as in `named_parameters()`.

        Returns:
            0 for the embedding, 1 to `num_layers` for layers, `num_layers + 1` behind them.
        """

    def clips_at_once(self, device: torch.device) -> int:
        """How many clips are encoded together where no gradient is needed.

        All of them, but on a CPU no more than keep the hidden layer of an MLP within what malloc
        uses again: larger blocks are mapped anew by every operation, for a tenth of the time.
        """
        if device.type != "cpu":
            return ALL_CLIPS
        hidden_bytes = 4 * 4 * self.embed_dim * self.num_tokens
        return max(1, MALLOC_KEEPS // hidden_bytes)

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Whether blocks keep only their input and run again in the backward pass."""
        self.grad_checkpointing = enabled


def token_grid(
    *, num_frames: int, img_size: int, tubelet_size: int, patch_size: int
) -> tuple[int, int, int]:
    """Tokens along (t, h, w).

    Raises:
        ValueError: if the clip cannot be cut into whole tubelets.
    """
    if img_size <= 0 or img_size % patch_size:
        raise ValueError(
            f"img_size ({img_size}) must be a positive multiple of patch_size ({patch_size})"
        )
    if num_frames <= 0 or num_frames % tubelet_size:
        raise ValueError(f"num_frames ({num_frames}) must be a positive multiple of {tubelet_size}")
    side = img_size // patch_size
    return num_frames // tubelet_size, side, side


def run_blocks(blocks: nn.ModuleList, x: Tensor, *context: object, checkpointing: bool) -> Tensor:
    """Applies blocks in turn, each as `block(x, *context)`.

    Args:
        blocks: modules that keep the shape of `x`.
        x: tokens.
        *context: what every block is given besides.
        checkpointing: keep the inputs of blocks only, and run each again in the backward pass.
    """
    for block in blocks:
        if checkpointing:
            x = checkpoint(block, x, *context, use_reentrant=False)
        else:
            x = block(x, *context)
    return x
