"""What a user of `transformers` would run for the same objective: the baseline of the step.

Its VideoMAE pretraining step, and a forward of all tokens by a second encoder without gradient,
which follows the first; the same optimiser, the same EMA, the same precision.
"""

import itertools
from typing import Any

import torch
from bench.gpu.harness import Bench
from bench.gpu.training import LEARNING_RATE
from bench.steps import MOMENTUM, clips, tubes, videomae_config

from cmaev.engine.optim import adamw
from cmaev.engine.precision import autocast
from cmaev.models import create_pretraining_model


class PeerStep:
    """One step of the baseline."""

    def __init__(self, bench: Bench, name: str, *, batch: int, compiled: bool) -> None:
        from transformers import VideoMAEForPreTraining, VideoMAEModel

        config = videomae_config(
            name, use_mean_pooling=False, norm_pix_loss=True, attn_implementation="sdpa"
        )
        self._online = VideoMAEForPreTraining(config).to(bench.device)
        self._target = VideoMAEModel(config).to(bench.device).requires_grad_(False)
        self._optimizer = adamw(self._online, weight_decay=0.05, betas=(0.9, 0.95), eps=1e-8)
        for group in self._optimizer.param_groups:
            group["lr"] = LEARNING_RATE
        with torch.device("meta"):
            ours = create_pretraining_model(name)
        self._batches = itertools.cycle(
            [
                (
                    *(
                        view.transpose(1, 2).contiguous()
                        for view in clips(name, batch, device=bench.device)
                    ),
                    tubes(ours, batch).to(bench.device),
                )
                for _ in range(2)
            ]
        )
        self._bench = bench
        self._pretrain: Any = self._online
        self._encode: Any = self._target
        if compiled:
            self._pretrain, self._encode = torch.compile(self._online), torch.compile(self._target)

    def __call__(self) -> torch.Tensor:
        """Forward, backward, optimiser, forward of all tokens, EMA."""
        online, target, mask = next(self._batches)
        with autocast(self._bench.dtype, self._bench.device):
            with torch.no_grad():
                self._encode(target)
            loss: torch.Tensor = self._pretrain(online, bool_masked_pos=mask).loss
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._follow()
        return loss.detach()

    @torch.no_grad()
    def _follow(self) -> None:
        online, target = (list(m.parameters()) for m in (self._online.videomae, self._target))
        torch._foreach_lerp_(target, online, 1 - MOMENTUM)


def videomae_step(bench: Bench, name: str, *, batch: int, compiled: bool = False) -> PeerStep:
    """The baseline at the shape of our model `name`.

    Raises:
        ImportError: if `transformers` is not there.
    """
    torch.manual_seed(0)
    return PeerStep(bench, name, batch=batch, compiled=compiled)
