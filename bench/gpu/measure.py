"""Time, memory and FLOPs of one thing."""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from bench.gpu.harness import Bench

Work = Callable[[], object]

# bf16 without sparsity, from the makers' data sheets. Names are whole: slower cards (H200 NVL,
# RTX A1000) and slices of a card (H100 80GB HBM3 MIG 3g.40gb) share parts of them.
PEAK_FLOPS: Final = {
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
}


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, of several in a row without a stop between them."""

    median: float
    spread: float
    """Between the quartiles, over the median."""


def time_calls(bench: Bench, work: Work, *, warm_up: int = 3, repeats: int = 20) -> Timing:
    """Times `work` as training would run it: the host is never held up in between."""
    warm_up, repeats = bench.size(warm_up, small=1), bench.size(repeats, small=3)
    for _ in range(warm_up):
        work()
    times = _device_times(work, repeats) if bench.cuda else _host_times(work, repeats)
    low, median, high = statistics.quantiles(times, n=4)
    return Timing(median, (high - low) / median)


def _device_times(work: Work, repeats: int) -> list[float]:
    torch.cuda.synchronize()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(marks)]


def _host_times(work: Work, repeats: int) -> list[float]:
    marks = [time.perf_counter()]
    for _ in range(repeats):
        work()
        marks.append(time.perf_counter())
    return [b - a for a, b in itertools.pairwise(marks)]


def peak_flops(bench: Bench) -> float | None:
    """What the data sheet promises; None for a device that is not in the table."""
    if not bench.cuda:
        return None
    return PEAK_FLOPS.get(torch.cuda.get_device_name(bench.device))


def throughput(
    bench: Bench, work: Work, *, batch: int, flops_per_clip: float | None = None
) -> dict[str, float | int]:
    """Times a step of `batch` clips: speed, share of the card, memory."""
    timing = time_calls(bench, work)
    figures: dict[str, float | int] = {
        "batch": batch,
        "ms": timing.median * 1e3,
        "spread": timing.spread,
        "clips/s": batch / timing.median,
    }
    if flops_per_clip is not None:
        figures["TFLOP/s"] = flops_per_clip * batch / timing.median / 1e12
        peak = peak_flops(bench)
        if peak is not None:
            figures["MFU"] = flops_per_clip * batch / timing.median / peak
    if bench.cuda:
        figures["peak GiB"] = torch.cuda.max_memory_allocated(bench.device) / 2**30
    return figures
