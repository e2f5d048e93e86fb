"""Whole training steps, as the engine runs them: forward, backward, fused AdamW, EMA.

Shapes: B clips, C channels, T frames, H x W pixels, N tokens.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from bench.gpu.harness import Bench, CannotMeasureError
from bench.steps import MASK_RATIO, MOMENTUM, clips, tubes
from torch import Tensor, nn

from cmaev.engine.compilation import Compile, begin_step, compile_training
from cmaev.engine.optim import adamw
from cmaev.engine.precision import autocast
from cmaev.engine.update import Update, backward
from cmaev.losses import feature_std
from cmaev.masking import num_visible
from cmaev.models import CMAEV, create_pretraining_model
from cmaev.models.fp8 import check_fp8
from cmaev.models.tokens import split_mask

Inputs = tuple[Tensor, ...]
Loss = Callable[[Inputs], Tensor]
Switch = float | bool | str
LEARNING_RATE = 1.5e-4


class TrainStep:
    """One optimiser step on the next of a few batches that lie on the device.

    Batches take turns, so that no step finds its input in a cache.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        batches: Sequence[Inputs],
        *,
        device: torch.device,
        dtype: torch.dtype,
        after: Callable[[Tensor], None] = lambda _: None,
        capturable: bool = False,
    ) -> None:
        self.optimizer = adamw(
            module, weight_decay=0.05, betas=(0.9, 0.95), eps=1e-8, capturable=capturable
        )
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE
        self._update = Update(module, self.optimizer)
        self.module = module
        self._loss, self._after = loss, after
        self._batches: Iterator[Inputs] = itertools.cycle(batches)
        self._device, self._dtype, self._captured = device, dtype, capturable

    def next_batch(self) -> Inputs:
        """The batch whose turn it is."""
        return next(self._batches)

    def __call__(self) -> Tensor:
        """A step; the loss stays on the device."""
        return self.on(self.next_batch())

    def on(self, batch: Inputs) -> Tensor:
        """A step on this batch."""
        self._update.begin()
        loss = self.loss_of(batch)
        backward(loss, accumulate=1)
        taken, _ = self._update.finish(0)
        self._after(taken)
        return loss.detach()

    def loss_of(self, batch: Inputs) -> Tensor:
        """The loss in the precision of the step, to be differentiated."""
        with autocast(self._dtype, self._device, cache=not self._captured):
            return self._loss(batch)


def pretraining_batches(name: str, model: CMAEV, batch: int, device: torch.device) -> list[Inputs]:
    """Two batches of views and masks."""
    return [(*clips(name, batch, device=device), tubes(model, batch).to(device)) for _ in range(2)]


def pretraining_model(bench: Bench, name: str, **switches: Switch) -> CMAEV:
    """A model with the same weights every time."""
    # CPUs compute the same numbers, which is enough to try this in small.
    if switches.get("target_precision") == "fp8" and bench.device.type == "cuda":
        try:
            check_fp8(bench.device)
        except ValueError as error:
            raise CannotMeasureError(str(error)) from None
    torch.manual_seed(0)
    return create_pretraining_model(name, **switches).to(bench.device)  # type: ignore[arg-type]


def pretraining_step(
    bench: Bench,
    name: str,
    *,
    batch: int,
    how: Compile = "none",
    cuda_graphs: bool = False,
    tuned: bool = False,
    overlap: bool = False,
    capturable: bool = False,
    dtype: torch.dtype | None = None,
    **switches: Switch,
) -> TrainStep:
    """A step of CMAE-V in one of the forms that are compared; `tuned` times kernels to choose."""
    model = pretraining_model(bench, name, **switches)
    visible = num_visible(model.encoder.grid, MASK_RATIO)
    module: nn.Module = model
    if tuned:
        module.compile(dynamic=False, fullgraph=True, mode="max-autotune-no-cudagraphs")
    else:
        module = compile_training(model, how, cuda_graphs=cuda_graphs, backend=bench.backend)
    side = torch.cuda.Stream(bench.device) if overlap and bench.cuda else None

    def loss(inputs: Inputs) -> Tensor:
        online, target, mask = inputs
        begin_step(cuda_graphs=cuda_graphs)
        if overlap:
            return overlapped_loss(model, online, target, mask, visible, side=side)
        out: Tensor = module(online, target, mask, visible)["loss"]
        return out

    return TrainStep(
        model,
        loss,
        pretraining_batches(name, model, batch, bench.device),
        device=bench.device,
        dtype=dtype or bench.dtype,
        after=lambda taken: model.update_target(MOMENTUM, taken=taken),
        capturable=capturable,
    )


def overlapped_loss(
    model: CMAEV,
    online: Tensor,
    target: Tensor,
    mask: Tensor,
    num_visible: int,
    *,
    side: torch.cuda.Stream | None,
) -> Tensor:
    """The objective with the target's forward on a stream of its own, beside the online branch."""
    if side is not None:
        side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y_t = model.target_feature(target)  # (B, D)
    visible, hidden = split_mask(mask, num_visible)  # (B, V), (B, M)
    z_s = model.encoder(online, visible)  # (B, V, D)
    loss_r = model.reconstruction(z_s, online, visible, hidden)
    if side is not None:
        torch.cuda.current_stream().wait_stream(side)
        y_t.record_stream(torch.cuda.current_stream())
    y_s = model.online_feature(z_s, visible, hidden)  # (B, D)
    loss_c = model.contrast_scale * model.contrast(y_s, y_t).loss
    feature_std(y_s)
    return model.reconstruction_weight * loss_r + model.contrast_weight * loss_c


class CapturedStep:
    """A whole step, optimiser and EMA included, as one CUDA graph."""

    def __init__(self, step: TrainStep) -> None:
        self._step = step
        self._inputs = tuple(tensor.clone() for tensor in step.next_batch())
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step.on(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = step.on(self._inputs)

    def __call__(self) -> Tensor:
        """Replays the step on the next batch."""
        for here, new in zip(self._inputs, self._step.next_batch(), strict=True):
            here.copy_(new)
        self._graph.replay()
        return self._loss
