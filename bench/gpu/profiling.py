"""Where a step's time goes, by kernel."""

from bench.gpu.harness import Bench, Figures
from bench.gpu.training import pretraining_step
from torch.profiler import ProfilerActivity, profile

STEPS = 3
LISTED = 12


def profiling(bench: Bench) -> None:
    """The heaviest kernels of ViT-B with compiled blocks."""

    def run() -> Figures:
        step = pretraining_step(
            bench, bench.model("base"), batch=bench.size(64, small=2), how=bench.how
        )
        for _ in range(STEPS):
            step()
        what = ProfilerActivity.CUDA if bench.cuda else ProfilerActivity.CPU
        with profile(activities=[what]) as profiler:
            for _ in range(STEPS):
                step()
        field = "self_device_time_total" if bench.cuda else "self_cpu_time_total"
        events = profiler.key_averages()
        total = sum(getattr(event, field) for event in events)
        heaviest = sorted(events, key=lambda event: -getattr(event, field))[:LISTED]
        shares.update({event.key[:80]: getattr(event, field) / total for event in heaviest})
        return {"kernels": len(events), "share of the time": sum(shares.values())}

    shares: dict[str, float] = {}
    bench.case("profile", f"the {LISTED} heaviest together", run)
    for kernel, share in shares.items():
        bench.note("profile", kernel, {"share of the time": share})
