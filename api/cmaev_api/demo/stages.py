"""The stages of the demo, one after the other, each over HTTP."""

import csv
import time
from collections.abc import Callable
from pathlib import Path

from cmaev_api.client import Client
from cmaev_api.commands.watch import follow_job
from cmaev_api.demo.local import local_stack
from cmaev_api.demo.report import show_report
from cmaev_api.demo.results import Answer, Results
from cmaev_api.demo.videos import (
    Choice,
    Videos,
    export_job,
    finetune_job,
    prepare_videos,
    pretrain_job,
)
from cmaev_api.jobs.schemas import JobRead
from cmaev_spec.exits import BadInput
from cmaev_spec.job import JobSpec
from cmaev_spec.state import JobState

MODEL_NAME = "demo"
CLASSIFIED_VIDEOS = 10

Say = Callable[[str], None]


class StageFailedError(RuntimeError):
    """A job of the demo did not succeed."""


def run_demo(choice: Choice, *, out: Path, say: Say) -> None:
    """Runs every stage in `out` and shows the report.

    Raises:
        BadInput: if the videos or the folder cannot be used.
        StageFailedError: if a job fails.
        ApiError: if a request is refused.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out: cannot make the folder {out}: {error.strerror}") from None
    results = Results(out=out)
    say(f"everything is kept in {out}")
    start = time.monotonic()
    videos = prepare_videos(choice, out=out)
    results.add("videos", start, f"{videos.train.name}, {videos.val.name}")

    start = time.monotonic()
    say("starting the stack: Valkey, API, worker, TorchServe")
    with local_stack(out / "state", log=out / "stack.log") as client:
        results.add("start the stack", start, client.url)
        _train(client, choice, videos, results, say=say)
    show_report(results, model_name=MODEL_NAME)


def _train(client: Client, choice: Choice, videos: Videos, results: Results, *, say: Say) -> None:
    pretrained = _job(client, "pretrain", pretrain_job(choice, videos), results, say=say)
    _fetch_pictures(client, pretrained, results)
    finetuned = _job(
        client,
        "finetune",
        finetune_job(choice, videos, init=f"job:{pretrained.id}"),
        results,
        say=say,
    )
    results.pretrained = finetuned
    results.scratch = _job(
        client, "from scratch", finetune_job(choice, videos, init=None), results, say=say
    )
    exported = _job(
        client,
        "export",
        export_job(f"job:{finetuned.id}", model_name=MODEL_NAME),
        results,
        say=say,
    )
    start = time.monotonic()
    say("deploy: the archive goes through the serving agent to TorchServe")
    model = client.deploy(exported.id)
    if model.serving.status != "ready":
        raise StageFailedError(f"deploy: {model.serving.status}: {model.serving.detail}")
    results.add("deploy", start, f"{model.name} version {model.serving.version}")
    _classify(client, finetuned, videos, results, say=say)


def _job(client: Client, stage: str, spec: JobSpec, results: Results, *, say: Say) -> JobRead:
    start = time.monotonic()
    job = client.submit(spec)
    say(f"{stage}: job {job.id}")
    job = follow_job(client, job.id)
    if job.state != JobState.SUCCEEDED:
        raise StageFailedError(f"{stage}: job {job.id} {job.state}: {job.error}")
    results.add(stage, start, _figures(job))
    return job


def _figures(job: JobRead) -> str:
    """The figure of a job that a person asks for first."""
    summary = job.summary or {}
    parts = []
    for name, form in (
        ("top1", "top-1 {:.3f}"),
        ("macro_recall", "macro-recall {:.3f}"),
        ("num_videos", "{:.0f} held-out videos"),
        ("loss", "loss {:.3f}"),
        ("loss_reconstruction", "reconstruction {:.3f}"),
        ("loss_contrastive", "contrastive {:.3f}"),
        ("parity_max_difference", "largest difference to PyTorch {:.1e}"),
    ):
        value = summary.get(name)
        if value is not None:
            parts.append(form.format(value))
    return ", ".join(parts)


def _fetch_pictures(client: Client, job: JobRead, results: Results) -> None:
    for artifact in client.artifacts(job.id):
        if artifact.kind == "picture":
            path = results.out / Path(artifact.path).name
            client.fetch(job.id, artifact.path, path)
            results.pictures.append(path)


def _classify(
    client: Client, finetuned: JobRead, videos: Videos, results: Results, *, say: Say
) -> None:
    start = time.monotonic()
    table = results.out / "predictions.csv"
    client.fetch(finetuned.id, "predictions.csv", table)
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = rows[:: max(1, len(rows) // CLASSIFIED_VIDEOS)][:CLASSIFIED_VIDEOS]
    say(f"classify: {len(chosen)} held-out videos over HTTP")
    for row in chosen:
        path = videos.folder / row["path"]
        results.answers.append(
            Answer(
                path=path,
                label=row["label"],
                evaluated=row["prediction"],
                answer=client.classify(MODEL_NAME, path),
            )
        )
    right = sum(a.answer.predictions[0].label == a.label for a in results.answers)
    same = sum(a.answer.predictions[0].label == a.evaluated for a in results.answers)
    results.add(
        "classify",
        start,
        f"{right} of {len(chosen)} right; {same} as the evaluation said",
    )
