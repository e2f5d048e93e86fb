"""Measuring a model while it is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "val_"
"""Of figures among the metrics of a run."""


@dataclass(frozen=True)
class Validation:
    """When the validation videos are measured, and how."""

    measure: Callable[[bool], dict[str, float] | None]
    """Told whether training is over; every process calls it. None: it was stopped."""
    every: int | None
    """Epochs; None: after the last only."""
    measured_on: str = ""
    """Hash of what is measured on: figures of anything else are not compared with these."""
    written: Callable[[], bool] = lambda: True
    """Whether what was measured when training was over is still there; the main process asks."""

    def due(self, epoch: int, *, epochs: int) -> bool:
        """Whether the model is measured after `epoch` of `epochs`, counted from 1."""
        return epoch == epochs or (self.every is not None and epoch % self.every == 0)


def as_metrics(figures: dict[str, float]) -> dict[str, float]:
    """Figures as they stand in the metrics."""
    return {f"{PREFIX}{name}": value for name, value in figures.items() if name != "num_videos"}
