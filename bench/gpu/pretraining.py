"""The pretraining step: forms of it, batches and sizes."""

from functools import cache, partial

from bench.gpu.harness import Bench, Figures
from bench.gpu.measure import throughput
from bench.gpu.peer import videomae_step
from bench.gpu.training import CapturedStep, Switch, TrainStep, pretraining_step
from bench.steps import gmac_per_clip

BATCH = 64
FORM_ONLY = frozenset({"overlap", "cuda_graphs", "tuned", "target_precision"})
"""Options that change how a step is computed, not how many FLOPs it has."""

# The most wanted first: what does not fit the time is skipped from the end.
FORMS: dict[str, dict[str, Switch]] = {
    "eager": {},
    "blocks compiled": {"how": "blocks"},
    "step compiled": {"how": "step"},
    "step compiled, CUDA graphs": {"how": "step", "cuda_graphs": True},
    "step compiled, batch 128": {"how": "step", "batch": 128},
    "step compiled, CUDA graphs, batch 128": {"how": "step", "cuda_graphs": True, "batch": 128},
    "blocks compiled, target on a stream of its own": {"how": "blocks", "overlap": True},
    "step compiled, FP8 target": {"how": "step", "target_precision": "fp8"},
    "step compiled, max-autotune": {"tuned": True},
    "step compiled, whole step one CUDA graph": {"how": "step", "captured": True},
    "blocks compiled, whole step one CUDA graph": {"how": "blocks", "captured": True},
    "eager, whole step one CUDA graph": {"captured": True},
}


def timed(
    bench: Bench,
    name: str,
    *,
    batch: int,
    how: str = "none",
    captured: bool = False,
    **options: Switch,
) -> Figures:
    """Speed, share of the card and memory of one form of the step."""
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
def flops(name: str, **options: Switch) -> float:
    """Of a clip, counted; two for each multiply-add."""
    switches = {k: v for k, v in options.items() if k not in FORM_ONLY}
    return 2e9 * gmac_per_clip(name, **switches)


def forms(bench: Bench) -> None:
    """ViT-B in every form of the step, beside what `transformers` needs at the same batch."""
    name, batch = bench.model("base"), bench.size(BATCH, small=2)

    def theirs(*, compiled: bool) -> Figures:
        return throughput(
            bench, videomae_step(bench, name, batch=batch, compiled=compiled), batch=batch
        )

    def ours(options: dict[str, Switch]) -> Figures:
        figures = dict(timed(bench, name, **{"batch": batch, **options}))  # type: ignore[arg-type]
        if peer is not None and figures["batch"] == batch:
            figures["over peer"] = float(peer["ms"]) / float(figures["ms"])
        return figures

    what = "transformers VideoMAE step and full-token forward"
    peer = bench.case("pretrain", f"{what}, eager", partial(theirs, compiled=False))
    for case, options in bench.cases(FORMS, small=("eager", "step compiled")).items():
        bench.case("pretrain", case, partial(ours, options))
    if bench.cuda:
        bench.case("pretrain", "transformers, compiled", partial(theirs, compiled=True))


def batches(bench: Bench) -> None:
    """ViT-B at growing batches, until the memory ends."""
    for batch in [2] if bench.quick else [64, 128, 256, 384, 512]:
        work = partial(timed, bench, bench.model("base"), batch=batch, how=bench.fastest)
        name = f"ViT-B, step compiled, batch {batch}"
        if bench.case("batches", name, work) is None and bench.wanted.search(name):
            break


def sizes(bench: Bench) -> None:
    """The other models, and what the sparse stages of the hybrid save."""
    hybrid = bench.model("base", family="convvit")
    cases: dict[str, tuple[str, int, dict[str, Switch]]] = {
        "ViT-S": (bench.model("small"), 128, {}),
        "ViT-L": (bench.model("large"), 32, {}),
        "hybrid, sparse early stages": (hybrid, 64, {}),
        "hybrid, dense early stages": (hybrid, 64, {"sparse_stages": False}),
    }
    cases = bench.cases(cases, small=cases.keys() - {"ViT-L"})  # where it is the same as ViT-S
    found: dict[str, Figures | None] = {}
    for case, (name, full, options) in cases.items():
        batch = bench.size(full, small=2)
        work = partial(timed, bench, name, batch=batch, how=bench.how, **options)
        found[case] = bench.case("sizes", f"{case}, blocks compiled", work)
    sparse, dense = found["hybrid, sparse early stages"], found["hybrid, dense early stages"]
    if sparse is not None and dense is not None:
        ratio = float(dense["ms"]) / float(sparse["ms"])
        bench.note("sizes", "hybrid, sparse over dense", {"times as fast": ratio})
