"""Pretraining: CMAE-V on pairs of views (paper section 3)."""

from torch import Tensor, nn

from cmaev.data.color import augment_color
from cmaev.data.device import flip_clips
from cmaev.masking import num_visible
from cmaev.models.cmaev import CMAEV
from cmaev.models.frames import FrameNormaliser
from cmaev.tasks.base import Batch
from cmaev_spec.model import ObjectiveSpec


class PretrainTask:
    """Batches hold `online` and `target` (B, T, H, W, C) uint8 and `mask` (B, N), True = hidden.

    Where they hold `flip` (B,) and `color` (B, 10), both views are mirrored and the target's
    colours are changed here, on the device.
    """

    name = "pretrain"

    def __init__(self, module: CMAEV, *, objective: ObjectiveSpec) -> None:
        self.module: CMAEV = module
        self.normalise = FrameNormaliser()
        self.objective = objective
        self.num_visible = num_visible(module.encoder.grid, objective.mask_ratio)

    def step(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Losses of one micro-batch."""
        normalise = self.normalise.to(batch["online"].device)
        online, target = batch["online"], batch["target"]  # each (B, T, H, W, C)
        if "flip" in batch:
            online, target = (flip_clips(view, batch["flip"]) for view in (online, target))
        if "color" in batch:
            target = augment_color(target, batch["color"])
        online, target = normalise(online), normalise(target)  # each (B, C, T, H, W)
        losses: dict[str, Tensor] = module(online, target, batch["mask"], self.num_visible)
        return losses

    def layer_scale(self, name: str) -> float:
        """Pretraining has one rate for all layers."""
        return 1.0

    def after_step(self, step: int, *, total_steps: int) -> None:
        """Moves the target after the online branch."""
        self.module.update_target(self.objective.momentum_at(step, total_steps=total_steps))
