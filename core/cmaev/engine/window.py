"""What is measured in the steps between two rows of the metrics."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cmaev.engine.distributed import World

Sums = dict[tuple[str, ...], Tensor]
"""Names that are measured together -> (2, n): sums of their finite values, and their numbers."""


class Window:
    """Means of the finite values since the last logged step; kept on the device until read."""

    def __init__(self) -> None:
        self._sums: Sums = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Adds () values that were measured together, as the losses of a micro-batch."""
        names = tuple(values)
        # Stacking copies, since replayed graphs write over what they returned.
        row = torch.stack([value.detach().float() for value in values.values()])  # (n,)
        finite = torch.nan_to_num(row, nan=0.0, posinf=0.0, neginf=0.0)
        part = torch.stack([finite, row.isfinite().float()])  # (2, n)
        self._sums[names] = self._sums[names] + part if names in self._sums else part

    def state_dict(self) -> Sums:
        """What this process has, for a checkpoint."""
        return {names: part.cpu() for names, part in self._sums.items()}

    def restore(self, states: Sequence[Sums], world: World) -> None:
        """Takes over what the processes had when they were saved; there may be more or fewer now.

        Args:
            states: of each process that there was.
            world: the processes that there are.
        """
        mine = [states[world.rank]] if len(states) == world.size else states
        self._sums = {
            names: torch.stack([state[names] for state in mine]).mean(dim=0).to(world.device)
            for names in mine[0]
        }

    def take(self, world: World) -> dict[str, float]:
        """The means over window and processes, without names that had no finite value.

        The window is empty afterwards.
        """
        names = [name for group in self._sums for name in group]
        sums, counts = world.mean(torch.cat([*self._sums.values()], dim=1))  # (all,), (all,)
        self._sums = {}
        means = zip(names, (sums / counts).tolist(), strict=True)
        return {name: mean for name, mean in means if math.isfinite(mean)}
