"""Updates of the weights by their gradients; one whose gradient is not finite is left out.

What is left out changes nothing: neither weights, moments and their step counts, nor running
statistics, nor (by `taken`) what a task does after a step. The device decides; the host reads
counts when it logs.

All processes decide alike: a loss that is not finite makes its own gradient NaN (`backward`),
gradients are averaged over processes before their norm is taken, and one NaN makes the average NaN.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

from cmaev.engine.sharding import whole

RECENT_STEPS: Final = 100
"""How many of the last steps are looked at when too many of them were left out."""


def backward(loss: Tensor, *, accumulate: int) -> None:
    """Adds the gradient of a micro-batch to the others; NaN where the loss is not finite."""
    share = (loss.detach() * 0).add_(1 / accumulate)
    loss.backward(share)  # type: ignore[no-untyped-call]


class Update:
    """Applies the gradients of a step."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.AdamW,
        *,
        clip_norm: float | None = None,
    ) -> None:
        """Prepares updates of a module that is where it is trained.

        Args:
            module: what holds the parameters.
            optimizer: fused, so that its kernels can leave out a step by themselves.
            clip_norm: largest norm of all gradients together; larger ones are scaled down to it.
        """
        self._optimizer, self._clip_norm = optimizer, clip_norm
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._statistics = persistent_buffers(module)
        self._kept = [buffer.clone() for buffer in self._statistics]
        self.skips = SkippedSteps(self._parameters[0].device)

    def begin(self) -> None:
        """Before the forward pass, which moves running statistics."""
        if self._statistics:
            torch._foreach_copy_(self._kept, self._statistics)

    def finish(self, step: int) -> tuple[Tensor, Tensor]:
        """Updates the weights by their gradients, which are gone afterwards.

        Args:
            step: the step's number, from 0.

        Returns:
            () fp32, 1 where the step was taken and 0 where it was left out, and the () norm of all
            gradients before they are clipped.
        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        if self._clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip_norm, norm)
        taken = norm.isfinite().float()
        skipped = 1 - taken
        self._optimizer.found_inf = skipped  # type: ignore[attr-defined]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        for now, before in zip(self._statistics, self._kept, strict=True):
            now.copy_(torch.where(taken > 0, now, before))
        self.skips.add(step, skipped)
        return taken, norm


class SkippedSteps:
    """How many steps were left out, kept on the device until read."""

    def __init__(self, device: torch.device) -> None:
        self._total = torch.zeros((), device=device)
        self._recent = torch.zeros(RECENT_STEPS, device=device)  # by step modulo its length

    def add(self, step: int, skipped: Tensor) -> None:
        """Counts step `step`; `skipped` is () fp32, 1 where it was left out."""
        self._total += skipped
        self._recent[step % RECENT_STEPS].copy_(skipped)

    def read(self) -> tuple[int, int]:
        """Steps left out since the start of the run, and of the last `RECENT_STEPS`."""
        total, recent = torch.stack([self._total, self._recent.sum()]).tolist()
        return int(total), int(recent)

    def state_dict(self) -> dict[str, Tensor]:
        """The counts, for a checkpoint."""
        return {"total": self._total.cpu(), "recent": self._recent.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on counting from where a checkpoint was made."""
        self._total.copy_(state["total"])
        self._recent.copy_(state["recent"])


def persistent_buffers(module: nn.Module) -> list[Tensor]:
    """The buffers that are saved; the others are constants."""
    saved = module.state_dict().keys()
    return [buffer for name, buffer in module.named_buffers() if name in saved]
