"""Switches that change results, off by default: what each gains, and what it does to the loss."""

from functools import partial
from typing import cast

import torch
from bench.gpu.exactness import far
from bench.gpu.harness import Bench, Figures
from bench.gpu.pretraining import BATCH, timed
from bench.gpu.training import Switch, pretraining_model, pretraining_step
from bench.steps import MASK_RATIO
from torch import Tensor

from cmaev.engine.precision import autocast
from cmaev.masking import num_visible
from cmaev.models import CMAEV

STEPS = 50
PARTS_OF_THE_LOSS = ("loss_reconstruction", "loss_contrastive")

SWITCHES: dict[str, dict[str, Switch]] = {
    "as in the paper": {},
    "FP8 target": {"target_precision": "fp8"},
    "half of the hidden tokens decoded": {"decoder_keep_ratio": 0.5},
    "target sees half of the tokens": {"target_keep_ratio": 0.5},
    "both halves": {"decoder_keep_ratio": 0.5, "target_keep_ratio": 0.5},
}


def levers(bench: Bench) -> None:
    """ViT-B: speed, the paper's loss after a few steps, and the target's features in FP8."""

    def run(switches: dict[str, Switch]) -> Figures:
        name, batch = bench.model("base"), bench.size(BATCH, small=2)
        figures = timed(bench, name, batch=batch, how=bench.fastest, **switches)  # type: ignore[arg-type]
        return {**figures, **after_training(bench, name, switches)}

    for case, switches in bench.cases(SWITCHES, small=("FP8 target", "both halves")).items():
        bench.case("levers", case, partial(run, switches))


def after_training(bench: Bench, name: str, switches: dict[str, Switch]) -> Figures:
    """The paper's loss, measured on the paper's terms, after training with the switches on."""
    steps, batch = bench.size(STEPS, small=2), bench.size(32, small=2)
    step = pretraining_step(bench, name, batch=batch, **switches)  # type: ignore[arg-type]
    for _ in range(steps):
        step()
    trained, plain = cast(CMAEV, step.module), pretraining_model(bench, name)
    plain.load_state_dict(trained.state_dict())
    online, target, mask = step.next_batch()
    torch.manual_seed(1)
    with torch.no_grad(), autocast(bench.dtype, bench.device):
        out = plain(online, target, mask, num_visible(plain.encoder.grid, MASK_RATIO))
    figures = {f"{key} after {steps} steps": out[key].item() for key in PARTS_OF_THE_LOSS}
    if switches.get("target_precision") == "fp8":
        figures |= features_apart(trained, plain, target, dtype=bench.dtype)
    return figures


def features_apart(
    fp8: CMAEV, plain: CMAEV, video: Tensor, *, dtype: torch.dtype
) -> dict[str, float]:
    """How far the target's features y_t of the same weights are from those in fp32."""
    exact = plain.target_feature(video).float()  # (B, D)
    with autocast(dtype, video.device):
        rounded, quantised = (model.target_feature(video).float() for model in (plain, fp8))
    return {
        "features, FP8 to fp32": far(quantised, exact),
        "features, bf16 to fp32": far(rounded, exact),
        "features, FP8 to bf16": far(quantised, rounded),
    }
