"""From decoded frames to model input; training and the exported graph share this module.

Shapes: B clips, T frames, H x W pixels, C = 3 channels.
"""

import torch
from torch import Tensor, nn

from cmaev.data.constants import IMAGENET_MEAN, IMAGENET_STD


class FrameNormaliser(nn.Module):
    """uint8 frames, channels last -> normalised floats, channels first."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)  # (C,)
        self.register_buffer("shift", -mean / std, persistent=False)  # (C,)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, H, W, C) uint8 -> (B, C, T, H, W) fp32."""
        x = frames.to(self.scale.dtype) * self.scale + self.shift  # (B, T, H, W, C)
        return x.permute(0, 4, 1, 2, 3)  # (B, C, T, H, W)
