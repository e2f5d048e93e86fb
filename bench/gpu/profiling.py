"""Where a step's time goes: by class of kernel, and the heaviest kernels."""

import re
from collections import Counter
from functools import partial
from typing import Final

from bench.gpu.harness import Bench, Figures
from bench.gpu.measure import time_calls
from bench.gpu.pretraining import BATCH
from bench.gpu.training import Switch, pretraining_step
from torch.profiler import ProfilerActivity, profile

STEPS = 3
LISTED = 12

FORMS: Final[dict[str, dict[str, Switch]]] = {
    "step compiled": {},
    "step compiled, FP8 target": {"target_precision": "fp8"},
}

# The first that matches names a kernel's class; fused kernels go by their dearest part.
CLASSES: Final = {
    "attention, backward": r"bprop|flash_bwd|dot_do_o|convert_dq|fmha\w*B|attention\w*_backward",
    "attention, forward": r"fprop|flash_fwd|fmha|scaled_dot_product|flash_attention",
    "optimiser and EMA": r"multi_tensor_apply|adam|lerp",
    "matrix products": r"nvjet|gemm|cutlass|splitK|gemv|triton_tem|mm\b|baddbmm|convolution",
    "GELU": r"gelu",
    "norms and residuals": r"layer_norm|batch_norm",
    "pixels and the loss of them": r"mse_loss|triton_\w*_std_",
    "sums of gradients": r"reduce_kernel|_fused\w*_sum|aten::sum",
    "copies and casts": r"Mem(cpy|set)|copy|clone|_cat\b|permute|stack|elementwise",
}
REST: Final = "rest"


def kernel_class(name: str) -> str:
    """One of `CLASSES`, or `REST`."""
    return next((group for group, pattern in CLASSES.items() if re.search(pattern, name)), REST)


def profiling(bench: Bench) -> None:
    """ViT-B with the compiled step, as in the paper and with its target in FP8."""
    for form, switches in bench.cases(FORMS, small=("step compiled",)).items():
        kernels: Counter[str] = Counter()
        bench.case("profile", form, partial(_run, bench, switches, kernels))
        total = kernels.total()
        groups: Counter[str] = Counter()
        for kernel, ms in kernels.items():
            groups[kernel_class(kernel)] += ms  # type: ignore[assignment]
        for what, found in (("all", groups), ("kernel", kernels)):
            for name, ms in found.most_common(LISTED):
                figures = {"ms a step": ms, "share of kernels": ms / total}
                bench.note("profile", f"{form}, {what}: {name[:80]}", figures)


def _run(bench: Bench, switches: dict[str, Switch], kernels: Counter[str]) -> Figures:
    """Fills `kernels` with their milliseconds a step."""
    step = pretraining_step(
        bench,
        bench.model("base"),
        batch=bench.size(BATCH, small=2),
        how=bench.fastest,
        **switches,  # type: ignore[arg-type]
    )
    wall = 1e3 * time_calls(bench, step).median
    what = ProfilerActivity.CUDA if bench.cuda else ProfilerActivity.CPU
    with profile(activities=[what]) as profiler:
        for _ in range(STEPS):
            step()
    field = "self_device_time_total" if bench.cuda else "self_cpu_time_total"
    for event in profiler.key_averages():
        if microseconds := getattr(event, field):
            kernels[event.key] += microseconds / 1e3 / STEPS
    total = kernels.total()
    return {"step ms": wall, "kernels ms": total, "kernels": len(kernels)}
