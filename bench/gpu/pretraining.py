"""The pretraining step: forms of it, its sizes, batches, and the levers that change results."""

from functools import cache, partial
from typing import cast

import torch
from bench.gpu.harness import Bench, Figures
from bench.gpu.measure import throughput
from bench.gpu.peer import videomae_step
from bench.gpu.training import CapturedStep, TrainStep, pretraining_step
from bench.steps import MASK_RATIO, gmac_per_clip

from cmaev.engine.compilation import Attention, attention_backend
from cmaev.masking import num_visible
from cmaev.models import CMAEV

BATCH = 64


def timed(
    bench: Bench,
    name: str,
    *,
    batch: int,
    how: str = "none",
    captured: bool = False,
    attention: Attention = "auto",
    **options: float | bool,
) -> Figures:
    """Speed, share of the card and memory of one form of the step."""
    if captured or options.get("cuda_graphs"):
        bench.need_cuda()
    with attention_backend(attention, bench.device):
        step = pretraining_step(
            bench,
            name,
            batch=batch,
            how=how,  # type: ignore[arg-type]
            capturable=captured,
            **options,  # type: ignore[arg-type]
        )
        work: TrainStep | CapturedStep = CapturedStep(step) if captured else step
        figures = throughput(bench, work, batch=batch, flops_per_clip=flops(name, **options))
        return {**figures, "loss": work().item()}


@cache
def flops(name: str, **options: float | bool) -> float:
    """Of a clip, counted; two for each multiply-add."""
    switches = {k: v for k, v in options.items() if k not in ("overlap", "cuda_graphs")}
    return 2e9 * gmac_per_clip(name, **switches)


def forms(bench: Bench) -> None:
    """ViT-B in every form that gives the same results, beside what `transformers` needs."""
    name, batch = bench.model("base"), bench.size(BATCH, small=2)
    peer = bench.case(
        "pretrain",
        "transformers VideoMAE step and full-token forward, eager",
        lambda: throughput(bench, videomae_step(bench, name, batch=batch), batch=batch),
    )
    cases = {
        "eager": {},
        "blocks compiled": {"how": "blocks"},
        "blocks compiled, whole step one CUDA graph": {"how": "blocks", "captured": True},
        "step compiled": {"how": "step"},
        "step compiled, CUDA graphs": {"how": "step", "cuda_graphs": True},
        "step compiled, whole step one CUDA graph": {"how": "step", "captured": True},
        "blocks compiled, target on a stream of its own": {"how": "blocks", "overlap": True},
        "blocks compiled, cuDNN attention": {"how": "blocks", "attention": "cudnn"},
        "eager, whole step one CUDA graph": {"captured": True},
    }
    if not bench.cuda:
        for case in [c for c, options in cases.items() if "attention" in options]:
            del cases[case]

    def run(options: dict[str, object]) -> Figures:
        figures = dict(timed(bench, name, batch=batch, **options))  # type: ignore[arg-type]
        if peer is not None:
            figures["over peer"] = float(peer["ms"]) / float(figures["ms"])
        return figures

    for case, options in cases.items():
        bench.case("pretrain", case, partial(run, options))
    if bench.cuda:
        bench.case(
            "pretrain",
            "transformers, compiled",
            lambda: throughput(
                bench, videomae_step(bench, name, batch=batch, compiled=True), batch=batch
            ),
        )


def batches(bench: Bench) -> None:
    """ViT-B at growing batches, until the memory ends."""
    sizes = [2] if bench.quick else [32, 64, 128, 192, 256, 384, 512]
    for batch in sizes:
        work = partial(timed, bench, bench.model("base"), batch=batch, how=bench.how)
        if bench.case("batches", f"ViT-B, blocks compiled, batch {batch}", work) is None:
            break


def sizes(bench: Bench) -> None:
    """The other models, and what the sparse stages of the hybrid save."""
    hybrid = bench.model("base", family="convvit")
    cases = {
        "ViT-S": (bench.model("small"), 128, {}),
        "ViT-L": (bench.model("large"), 32, {}),
        "hybrid, sparse early stages": (hybrid, 64, {}),
        "hybrid, dense early stages": (hybrid, 64, {"sparse_stages": False}),
    }
    if bench.quick:  # where it would be the same model as ViT-S
        del cases["ViT-L"]
    found: dict[str, Figures | None] = {}
    for case, (name, full, options) in cases.items():
        batch = bench.size(full, small=2)
        work = partial(timed, bench, name, batch=batch, how=bench.how, **options)
        found[case] = bench.case("sizes", f"{case}, blocks compiled", work)
    sparse, dense = found["hybrid, sparse early stages"], found["hybrid, dense early stages"]
    if sparse is not None and dense is not None:
        ratio = float(dense["ms"]) / float(sparse["ms"])
        bench.note("sizes", "hybrid, sparse over dense", {"times as fast": ratio})


def levers(bench: Bench) -> None:
    """Switches that change results, off by default: speed, and the loss after a few steps."""
    cases: dict[str, dict[str, float]] = {
        "as in the paper": {},
        "half of the hidden tokens decoded": {"decoder_keep_ratio": 0.5},
        "target sees half of the tokens": {"target_keep_ratio": 0.5},
        "both": {"decoder_keep_ratio": 0.5, "target_keep_ratio": 0.5},
    }
    if bench.quick:
        cases = {"both": cases["both"]}
    name, batch = bench.model("base"), bench.size(BATCH, small=2)

    def run(switches: dict[str, float]) -> Figures:
        figures = timed(bench, name, batch=batch, how=bench.how, **switches)
        return {**figures, **after_training(bench, name, switches)}

    for case, switches in cases.items():
        bench.case("levers", case, partial(run, switches))


def after_training(bench: Bench, name: str, switches: dict[str, float]) -> Figures:
    """The paper's loss, measured on the paper's terms, after training with the switches on."""
    steps, batch = bench.size(50, small=2), bench.size(32, small=2)
    step = pretraining_step(bench, name, batch=batch, **switches)
    for _ in range(steps):
        step()
    torch.manual_seed(1)
    model = cast(CMAEV, step.module)
    model.decoder_keep_ratio = model.target_keep_ratio = 1.0
    online, target, mask = step.next_batch()
    with torch.no_grad(), torch.autocast(bench.device.type, enabled=bench.cuda, dtype=bench.dtype):
        out = model(online, target, mask, num_visible(model.encoder.grid, MASK_RATIO))
    return {f"{key} after {steps} steps": out[key].item() for key in PARTS_OF_THE_LOSS}


PARTS_OF_THE_LOSS = ("loss_reconstruction", "loss_contrastive")
