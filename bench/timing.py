"""Timing that several candidates share: interleaved rounds, the best of each."""

import platform
import time
from collections.abc import Callable, Mapping

import torch

Work = Callable[[], object]


def best_seconds(
    candidates: Mapping[str, Work], *, device: torch.device, rounds: int
) -> dict[str, float]:
    """Shortest time of each candidate over `rounds`, after one run each to warm up.

    Candidates take turns, so that a busy moment of the machine does not fall on one of them alone.
    """

    def once(work: Work) -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for work in candidates.values():
        once(work)
    times = [{name: once(work) for name, work in candidates.items()} for _ in range(rounds)]
    return {name: min(row[name] for row in times) for name in candidates}


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """The practical ceiling: one large square matrix product."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=dtype)
    return 2 * n**3 / best_seconds({"": lambda: a @ a}, device=device, rounds=5)[""]


def hardware(device: torch.device) -> str:
    """What the figures were taken on, in a line."""
    if device.type == "cuda":
        what = torch.cuda.get_device_name(device)
    else:
        what = f"{_cpu_name()}, {torch.get_num_threads()} threads"
    python = platform.python_version()
    return f"{what}, {platform.system()}, Python {python}, torch {torch.__version__}"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(
                line.split(":")[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
