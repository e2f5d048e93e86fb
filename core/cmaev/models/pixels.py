"""What the decoder is asked for, and the way from its answer to colours.

Shapes: B clips, C channels, N tokens, M hidden ones, P = tubelet * patch * patch pixels of a
tubelet and channel.
"""

from typing import Final

import torch
from torch import Tensor, nn

from cmaev.data.constants import IMAGENET_MEAN, IMAGENET_STD

PIXEL_EPS: Final = 1e-6
"""Added to the standard deviation of a tubelet's pixels, on a scale of 0 to 1."""


def tubelets(video: Tensor, *, tubelet_size: int, patch_size: int) -> Tensor:
    """Cuts a video into its tubelets, pixels before channels.

    Args:
        video: (B, C, T, H, W).
        tubelet_size: frames of a tubelet.
        patch_size: height and width of a tubelet.

    Returns:
        (B, N, P, C) with N in (t, h, w) order and P in (frame, row, column) order.
    """
    B, C, T, H, W = video.shape
    t, h, w = T // tubelet_size, H // patch_size, W // patch_size
    x = video.reshape(B, C, t, tubelet_size, h, patch_size, w, patch_size)
    x = x.permute(0, 2, 4, 6, 3, 5, 7, 1)  # (B, t, h, w, p0, p1, p2, C)
    return x.reshape(B, t * h * w, tubelet_size * patch_size * patch_size, C)  # (B, N, P, C)


def normalise_tubelets(pixels: Tensor, *, eps: float | Tensor = PIXEL_EPS) -> Tensor:
    """Standardises each tubelet and channel over its pixels (method.md 1.3).

    The standard deviation is the unbiased one, and `eps` is added to it, not to the variance.

    Args:
        pixels: (B, N, P, C).
        eps: keeps flat tubelets finite; one for all channels, or (C,). Pixels that were divided by
            `s` are standardised to the same values with `eps / s`.

    Returns:
        (B, N, P, C).
    """
    mean = pixels.mean(dim=-2, keepdim=True)  # (B, N, 1, C)
    std = pixels.std(dim=-2, keepdim=True, correction=1)  # (B, N, 1, C)
    return (pixels - mean) / (std + eps)


class PixelTarget(nn.Module):
    """The pixels of hidden tubelets, standardised (method.md 1.3) or as the encoder sees them.

    Args:
        tubelet_size: frames of a tubelet.
        patch_size: height and width of a tubelet.
        norm_pix: standardise each tubelet and channel, so that every tubelet counts alike, whatever
            its contrast; False counts those most that differ most from the mean colour.
    """

    mean: Tensor
    std: Tensor
    eps: Tensor

    def __init__(self, *, tubelet_size: int, patch_size: int, norm_pix: bool = True) -> None:
        super().__init__()
        self.tubelet_size, self.patch_size = tubelet_size, patch_size
        self.norm_pix = norm_pix
        std = torch.tensor(IMAGENET_STD)  # (C,)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", std, persistent=False)
        # Dividing by `std` before standardising cancels out, but for the epsilon beside it.
        self.register_buffer("eps", PIXEL_EPS / std, persistent=False)

    @torch.no_grad()
    def forward(self, video: Tensor, hidden: Tensor) -> Tensor:
        """The target of hidden tubelets, at the cost of those alone.

        Args:
            video: (B, C, T, H, W), normalised; standardising takes that back by itself.
            hidden: (B, M) indices.

        Returns:
            (B, M, P*C) fp32, channel fastest.
        """
        pixels = self._hidden(video, hidden)  # (B, M, P, C)
        if self.norm_pix:
            pixels = normalise_tubelets(pixels, eps=self.eps)
        return pixels.flatten(2)  # (B, M, P*C)

    @torch.no_grad()
    def rebuilt(self, prediction: Tensor, video: Tensor, hidden: Tensor) -> Tensor:
        """Colours of hidden tubelets as predicted.

        Mean and deviation, where the target leaves them out, are those of the true tubelets.

        Args:
            prediction: (B, M, P*C).
            video: (B, C, T, H, W), normalised.
            hidden: (B, M) indices.

        Returns:
            (B, M, P*C), about 0 to 1.
        """
        true = self._hidden(video, hidden)  # (B, M, P, C)
        pixels = prediction.float().reshape(true.shape)  # (B, M, P, C)
        if self.norm_pix:
            std, mean = torch.std_mean(true, dim=2, keepdim=True)  # (B, M, 1, C)
            pixels = pixels * (std + self.eps) + mean
        return (pixels * self.std + self.mean).flatten(2)  # (B, M, P*C)

    def tubelets(self, video: Tensor) -> Tensor:
        """All tubelets of a clip: (B, C, T, H, W) -> (B, N, P, C)."""
        return tubelets(video, tubelet_size=self.tubelet_size, patch_size=self.patch_size)

    def video(self, pixels: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """The inverse of `tubelets`: (B, N, P, C) -> (B, C, T, H, W), of t x h x w tubelets."""
        B, _, _, C = pixels.shape
        (t, h, w), p0, p = grid, self.tubelet_size, self.patch_size
        x = pixels.reshape(B, t, h, w, p0, p, p, C)
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)  # (B, C, t, p0, h, p1, w, p2)
        return x.reshape(B, C, t * p0, h * p, w * p)  # (B, C, T, H, W)

    def _hidden(self, video: Tensor, hidden: Tensor) -> Tensor:
        pixels = self.tubelets(video)  # (B, N, P, C)
        return pixels.take_along_dim(hidden[:, :, None, None], dim=1).float()  # (B, M, P, C)
