"""AdamW, its schedule, and the numbers derived from them."""

import math
from typing import Self

from pydantic import Field, model_validator

from cmaev_spec.base import Spec


class OptimSpec(Spec):
    """AdamW with linear warm-up from zero and a cosine to `base_min_lr`.

    `base_lr` and `base_min_lr` are per 256 clips of the global batch (method.md 4.1 and 5).
    """

    base_lr: float = Field(gt=0.0)
    base_min_lr: float = Field(1e-5, ge=0.0)
    batch_size: int = Field(
        ge=1, le=1_000_000, description="clips per optimiser step over all processes"
    )
    epochs: int = Field(ge=1, le=1_000_000)
    warmup_epochs: int = Field(0, ge=0)
    weight_decay: float = Field(0.05, ge=0.0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0.0)
    accumulate: int = Field(1, ge=1, le=100_000, description="micro-batches per optimiser step")
    clip_grad: float | None = Field(None, gt=0.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs: {self.warmup_epochs} must be less than epochs ({self.epochs}); "
                "set it to 0, or train for more epochs"
            )
        check_multiple(self.batch_size, self.accumulate, field="batch_size", what="accumulate")
        return self

    @property
    def lr(self) -> float:
        """Peak learning rate after the linear scaling rule."""
        return self.base_lr * self.batch_size / 256

    @property
    def min_lr(self) -> float:
        """Last learning rate after the linear scaling rule."""
        return self.base_min_lr * self.batch_size / 256

    def steps_per_epoch(self, num_clips: int) -> int:
        """Optimiser steps in one pass over `num_clips`; the incomplete last batch is dropped."""
        return num_clips // self.batch_size

    def lr_at(self, step: int, *, steps_per_epoch: int) -> float:
        """Learning rate of optimiser step `step` (from 0): linear warm-up, then cosine."""
        warmup = self.warmup_epochs * steps_per_epoch
        total = self.epochs * steps_per_epoch
        if step < warmup:
            return self.lr * step / max(1, warmup - 1)
        progress = (step - warmup) / max(1, total - warmup)
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1.0 + math.cos(math.pi * progress))


def check_multiple(value: int, divisor: int, *, field: str, what: str) -> None:
    """Holds a field to be a multiple of what `what` tells, which is `divisor`.

    Raises:
        ValueError: with the nearest values that are.
    """
    if value % divisor:
        lower = value // divisor * divisor
        near = " and ".join(str(one) for one in (lower, lower + divisor) if one)
        raise ValueError(
            f"{field}: {value} must be a multiple of {what} ({divisor}); nearest: {near}"
        )


class FinetuneOptimSpec(OptimSpec):
    """AdamW for finetuning: layer-wise decay of the learning rate and label smoothing."""

    base_min_lr: float = Field(1e-6, ge=0.0)
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = Field(0.75, gt=0.0, le=1.0)
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)
