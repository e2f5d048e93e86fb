"""Pretraining: CMAE-V on pairs of views (paper section 3)."""

from torch import Tensor, nn

from cmaev.data.device_views import DeviceViews
from cmaev.masking import num_visible
from cmaev.models.cmaev import CMAEV
from cmaev.tasks.base import Batch
from cmaev_spec.model import ObjectiveSpec


class PretrainTask:
    """Batches hold `online` and `target` (B, T, H, W, C) uint8 and `mask` (B, N), True = hidden.

    `DeviceViews` does, on the device, what the samples drew.
    """

    name = "pretrain"

    def __init__(self, module: CMAEV, *, objective: ObjectiveSpec) -> None:
        self.module: CMAEV = module
        self.inputs = DeviceViews()
        self.objective = objective
        self.num_visible = num_visible(module.encoder.grid, objective.mask_ratio)

    def step(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Losses of one micro-batch."""
        online, target = self.inputs(batch)  # each (B, C, T, H, W)
        losses: dict[str, Tensor] = module(online, target, batch["mask"], self.num_visible)
        return losses

    def layer_scale(self, name: str) -> float:
        """Pretraining has one rate for all layers."""
        return 1.0

    def after_step(self, step: int, *, total_steps: int, taken: Tensor) -> None:
        """Moves the target after the online branch, where that has moved."""
        momentum = self.objective.momentum_at(step, total_steps=total_steps)
        self.module.update_target(momentum, taken=taken)
