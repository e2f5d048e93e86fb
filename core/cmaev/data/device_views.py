"""What happens to pairs of views on the device, between the copy and the model.

Shapes: B clips, T frames, H x W pixels, C = 3 channels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cmaev.data.color import augment_color
from cmaev.data.device import flip_clips
from cmaev.models.frames import FrameNormaliser


class DeviceViews(nn.Module):
    """Flips, colours and normalises a batch; of static shapes, and without a word from the host.

    In eager mode each change is a pass over memory of its own; compiled, they are a few.
    """

    def __init__(self) -> None:
        super().__init__()
        self.normalise = FrameNormaliser()

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Does what the samples drew.

        Args:
            batch: `online` and `target` (B, T, H, W, C) uint8; where it has `flip` (B,), both are
                mirrored, and where it has `color` (B, 10), the target's colours change.

        Returns:
            Both views, each (B, C, T, H, W) fp32.
        """
        online, target = batch["online"], batch["target"]  # each (B, T, H, W, C)
        if "flip" in batch:
            online, target = (flip_clips(view, batch["flip"]) for view in (online, target))
        if "color" in batch:
            target = augment_color(target, batch["color"])
        return self.normalise(online), self.normalise(target)
