"""What the decoder rebuilds of clips, beside what it saw.

Shapes: B clips, C channels, N tokens, P pixels per tubelet and channel.
"""

from pathlib import Path

import torch
from torch import Tensor

from cmaev.models.cmaev import CMAEV
from cmaev.models.tokens import split_mask
from cmaev.pictures.strips import save_strip


@torch.inference_mode()
def reconstruct(model: CMAEV, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Original, masked and rebuilt clips.

    Visible tubelets are shown as they are; see `PixelTarget.rebuilt` for hidden ones.

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

    rebuilt = model.pixels.rebuilt(prediction, video, hidden)  # (B, M, P*C)

    pixels = model.pixels.tubelets(video) * model.pixels.std + model.pixels.mean  # (B, N, P, C)
    flat = pixels.flatten(2)  # (B, N, P*C)
    index = hidden[:, :, None].expand(-1, -1, flat.shape[2])  # (B, M, P*C)
    grey = flat.scatter(1, index, torch.full_like(flat, 0.5))
    filled = flat.scatter(1, index, rebuilt)
    original, masked, whole = (
        _bytes(model.pixels.video(x.reshape(pixels.shape), model.encoder.grid))
        for x in (flat, grey, filled)
    )
    return original, masked, whole


def reconstruction_strip(model: CMAEV, video: Tensor, mask: Tensor, path: Path) -> None:
    """Writes a PNG with three rows per clip: original, masked, rebuilt; one column per frame."""
    rows = [part.cpu().numpy() for part in reconstruct(model, video, mask)]
    save_strip(list(zip(*rows, strict=True)), path)


def _bytes(video: Tensor) -> Tensor:
    """(B, C, T, H, W) in [0, 1] -> (B, T, H, W, C) uint8."""
    x = video.permute(0, 2, 3, 4, 1)  # (B, T, H, W, C)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)
