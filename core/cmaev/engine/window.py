"""What is measured in the steps between two rows of the metrics."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cmaev.engine.distributed import World


class Window:
    """Means of what was measured since the last logged step; kept on the device until read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """Adds the losses of one micro-batch."""
        for name, value in values.items():
            value = value.detach().float()
            # A copy, since replayed graphs write over what they returned.
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.count += 1

    def restore(self, sums: Sequence[dict[str, Tensor]], count: int, world: World) -> None:
        """Takes over what the processes had when they were saved; there may be more or fewer now.

        Args:
            sums: of each process that there was.
            count: micro-batches, the same for all of them.
            world: the processes that there are.
        """
        mine = [sums[world.rank]] if len(sums) == world.size else sums
        self.count = count
        self.sums = {
            name: torch.stack([part[name] for part in mine]).mean(dim=0).to(world.device)
            for name in mine[0]
        }

    def take(self, world: World) -> dict[str, float]:
        """The means over window and processes; the window is empty afterwards."""
        names = list(self.sums)
        means = world.mean(torch.stack([self.sums[name] for name in names]) / self.count)
        self.sums, self.count = {}, 0
        return dict(zip(names, means.tolist(), strict=True))
