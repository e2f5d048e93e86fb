"""What the decoder rebuilds of clips, beside what it saw.

Shapes: B clips, C channels, N tokens, P pixels per tubelet and channel.
"""

from pathlib import Path

import torch
from torch import Tensor

from cmaev.losses import tubelets
from cmaev.models.cmaev import CMAEV
from cmaev.models.tokens import gather_tokens, split_mask
from cmaev.pictures.strips import save_strip


@torch.inference_mode()
def reconstruct(model: CMAEV, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Original, masked and rebuilt clips.

    The decoder predicts standardised pixels; mean and deviation of the true tubelets bring them
    back to colours. Visible tubelets are shown as they are.

    Args:
        model: a pretrained model.
        video: (B, C, T, H, W), normalised.
        mask: (B, N) bool, True = hidden.

    Returns:
        Three (B, T, H, W, C) uint8 tensors.
    """
    was_training = model.training
    model.eval()
    visible, hidden = split_mask(mask)
    prediction = model.decode(model.encoder(video, visible), visible, hidden)  # (B, M, P*C)
    model.train(was_training)

    encoder = model.encoder
    shape = {"tubelet_size": encoder.tubelet_size, "patch_size": encoder.patch_size}
    pixels = tubelets(video * model.std + model.mean, **shape)  # (B, N, P, C)
    B, N, P, C = pixels.shape
    true = gather_tokens(pixels.flatten(2), hidden).reshape(B, -1, P, C)  # (B, M, P, C)
    std, mean = torch.std_mean(true, dim=2, keepdim=True)  # (B, M, 1, C)
    rebuilt = prediction.reshape(B, -1, P, C) * (std + 1e-6) + mean  # (B, M, P, C)

    index = hidden[:, :, None].expand(-1, -1, P * C)  # (B, M, P*C)
    flat = pixels.flatten(2)  # (B, N, P*C)
    grey = flat.scatter(1, index, torch.full_like(flat, 0.5))
    filled = flat.scatter(1, index, rebuilt.flatten(2))
    original, masked, whole = (
        _untubelet(x.reshape(B, N, P, C), encoder.grid, **shape) for x in (flat, grey, filled)
    )
    return original, masked, whole


def reconstruction_strip(model: CMAEV, video: Tensor, mask: Tensor, path: Path) -> None:
    """Writes a PNG with three rows per clip: original, masked, rebuilt; one column per frame."""
    rows = [part.cpu().numpy() for part in reconstruct(model, video, mask)]
    save_strip(list(zip(*rows, strict=True)), path)


def _untubelet(
    x: Tensor, grid: tuple[int, int, int], *, tubelet_size: int, patch_size: int
) -> Tensor:
    """(B, N, P, C) in [0, 1] -> (B, T, H, W, C) uint8, the inverse of `losses.tubelets`."""
    B, _, _, C = x.shape
    t, h, w = grid
    x = x.reshape(B, t, h, w, tubelet_size, patch_size, patch_size, C)
    x = x.permute(0, 1, 4, 2, 5, 3, 6, 7)  # (B, t, p0, h, p1, w, p2, C)
    x = x.reshape(B, t * tubelet_size, h * patch_size, w * patch_size, C)  # (B, T, H, W, C)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)
