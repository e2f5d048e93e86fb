"""The table at the end of the demo, and what to try next."""

import shlex

from rich.console import Console
from rich.table import Table

from cmaev_api.demo.results import Answer, Results

EXAMPLES = 3


def show_report(results: Results, *, model_name: str) -> None:
    """Prints stages, figures, example answers, pictures and the next commands."""
    console = Console(soft_wrap=True)
    table = Table("stage", "seconds", "result", title="cmaev demo", title_justify="left")
    table.columns[1].justify = "right"
    for stage, seconds, result in results.stages:
        table.add_row(stage, f"{seconds:.1f}", result)
    total = sum(seconds for _, seconds, _ in results.stages)
    table.add_row("all", f"{total:.1f}", "")
    console.print(table)
    for title, job in (("pretrained", results.pretrained), ("from scratch", results.scratch)):
        summary = (job.summary if job else None) or {}
        console.print(
            f"held-out top-1, {title}: {summary.get('top1') or 0:.3f}, "
            f"macro-recall {summary.get('macro_recall') or 0:.3f}, "
            f"{summary.get('num_videos') or 0:.0f} videos",
            markup=False,
        )
    for answer in results.answers[:EXAMPLES]:
        console.print(_example(answer), markup=False)
    for path in results.pictures:
        console.print(f"picture: {path}", markup=False)
    state = shlex.quote(str(results.out / "state"))
    console.print("\ntry next:", markup=False)
    console.print(f"  export CMAEV_STATE_DIR={state}", markup=False)
    console.print("  cmaev up &", markup=False)
    if results.answers:
        video = shlex.quote(str(results.answers[0].path))
        console.print(f"  cmaev classify {video} --model {model_name}", markup=False)
    console.print("  cmaev jobs list", markup=False)


def _example(answer: Answer) -> str:
    best = answer.answer.predictions[:3]
    guesses = ", ".join(f"{item.label} {item.probability:.2f}" for item in best)
    seconds = answer.answer.views[0].seconds
    return (
        f"{answer.path.name} shows {answer.label}: {guesses} "
        f"(frames from {seconds[0]:.2f} to {seconds[-1]:.2f} s)"
    )
