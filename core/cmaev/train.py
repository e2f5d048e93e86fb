"""`python -m cmaev.train --run-dir D`: the runner of all jobs but exports.

Reads the job of the run directory, trains from the newest checkpoint or from the start, and
leaves `summary.json`, pictures and an outcome event. Bad specifications and data raise BadInput,
which `cmaev.launch` turns into exit code 64.
"""

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import TypeVar

import torch
from torch import Tensor

from cmaev.checkpoints import load_classifier, load_pretrained
from cmaev.checkpoints.runs import (
    build_classifier,
    build_pretraining_model,
)
from cmaev.data.index import VideoIndex, open_index
from cmaev.data.views import EvaluateViews, FinetuneViews, PretrainViews
from cmaev.engine import distributed
from cmaev.engine.checkpoint import newest_checkpoint
from cmaev.engine.context import Context
from cmaev.engine.events import EventLog, read_metrics
from cmaev.engine.loop import Loader, Trainer
from cmaev.engine.sharding import unsharded
from cmaev.engine.signals import StopRequest
from cmaev.engine.trackers import open_trackers
from cmaev.engine.validation import Validation
from cmaev.models import CMAEV, VideoClassifier
from cmaev.models.fp8 import check_fp8
from cmaev.models.frames import FrameNormaliser
from cmaev.pictures.charts import loss_curve
from cmaev.pictures.reconstruction import reconstruction_strip
from cmaev.probe import run_probe
from cmaev.tasks.base import Task
from cmaev.tasks.finetune import FinetuneTask
from cmaev.tasks.measure import measure
from cmaev.tasks.pretrain import PretrainTask
from cmaev.tasks.videos import filling, steps_per_epoch, training_loader
from cmaev.tasks.weights import class_weights
from cmaev_spec.data import FinetuneData
from cmaev_spec.exits import EXIT_OK, EXIT_STOPPED, BadInput
from cmaev_spec.files import write_atomic
from cmaev_spec.job import (
    EvaluateJob,
    ExportJob,
    FinetuneJob,
    JobSpec,
    PretrainJob,
    ProbeJob,
    TrainingJob,
)
from cmaev_spec.rundir import RunDir, resolve_run
from cmaev_spec.wire import content_hash

logger = logging.getLogger(__name__)

PICTURED_CLIPS = 4


def main(argv: Sequence[str]) -> int:
    """Runs the job of a run directory; returns the exit code of the runner contract."""
    parser = argparse.ArgumentParser(prog="python -m cmaev.train", description=__doc__)
    parser.add_argument("--run-dir", required=True)
    run = RunDir(parser.parse_args(argv).run_dir)
    job = run.next_job()
    stop = StopRequest()
    stop.install()
    if job.resources.threads is not None:
        torch.set_num_threads(job.resources.threads)
    distributed.check_started(job.resources)
    world = distributed.join(job.resources.device)
    logging.basicConfig(
        level=logging.INFO if world.main else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    with ExitStack() as cleanup:
        cleanup.callback(distributed.leave)
        trackers = open_trackers(wanted_trackers(job), run, enabled=world.main)
        for tracker in trackers:
            cleanup.callback(tracker.close)
        events = EventLog(run, enabled=world.main, trackers=trackers)
        summary = _run(job, Context(run, world, events, stop))
    if summary is None:
        events.outcome("stopped", exit_code=EXIT_STOPPED)
        return EXIT_STOPPED
    if world.main:
        write_atomic(run.summary, json.dumps(summary, indent=1) + "\n")
    events.outcome("succeeded", exit_code=EXIT_OK, summary=summary)
    return EXIT_OK


def _run(job: JobSpec, context: Context) -> dict[str, float] | None:
    if isinstance(job, PretrainJob):
        return run_pretrain(job, context)
    if isinstance(job, FinetuneJob):
        return run_finetune(job, context)
    if isinstance(job, ProbeJob):
        return run_probe(job, context)
    if isinstance(job, EvaluateJob):
        return run_evaluate(job, context)
    assert isinstance(job, ExportJob)
    raise BadInput("kind: export jobs are run by cmaev_serving.export")


def wanted_trackers(job: JobSpec) -> Sequence[str]:
    """Only jobs with a training loop have curves to follow."""
    return job.run.trackers if isinstance(job, TrainingJob) else ()


def run_pretrain(job: PretrainJob, context: Context) -> dict[str, float] | None:
    """Pretrains, then pictures what the decoder rebuilds; None if it was stopped."""
    torch.manual_seed(job.seed)
    objective = job.objective
    if objective.target_precision == "fp8":
        checked(lambda: check_fp8(context.world.device), field="objective.target_precision")
    model = build_pretraining_model(job)
    model.set_grad_checkpointing(job.model.grad_checkpointing)
    start_from(job.init, model, context)
    task = checked(
        lambda: PretrainTask(model, objective=objective),
        field="objective",
    )
    index = open_index(job.data.index, root=job.data.root, field="data.index")
    steps = steps_per_epoch(job.optim, index)
    with filling(index, job.data, context) as progress:
        dataset = PretrainViews(
            index,
            job.data,
            grid=model.encoder.grid,
            mask_ratio=objective.mask_ratio,
            seed=job.seed,
            progress=progress,
        )
    with closing(training_loader(dataset, index, job, context)) as loader:
        if train(job, task, loader, context, steps=steps) is None:
            return None
        with unsharded(model):
            if context.world.main:
                picture_pretraining(model, loader, context)
    return last_metrics(context.run, step=steps * job.optim.epochs)


def run_finetune(job: FinetuneJob, context: Context) -> dict[str, float] | None:
    """Finetunes, and measures the validation videos; None if it was stopped."""
    torch.manual_seed(job.seed)
    data = job.data
    index = open_index(data.index, root=data.root, labels=data.labels, field="data.index")
    index.require_labels()
    labels = index.label_names
    if len(labels) < 2:
        raise BadInput(f"data.index: {data.index} has {len(labels)} label; two are the least")
    refuse_other_labels(labels, context)
    val_index = open_index(data.val_index, root=data.root, labels=labels, field="data.val_index")
    val_index.require_labels()
    if context.world.main:
        write_atomic(context.run.labels, json.dumps(labels))

    model = build_classifier(job, num_classes=len(labels))
    model.encoder.set_grad_checkpointing(job.model.grad_checkpointing)
    start_from(job.init, model, context)
    task = FinetuneTask(
        model,
        label_smoothing=job.optim.label_smoothing,
        layer_decay=job.optim.layer_decay,
        augment=data.augment,
        class_weight=_class_weight(job, index, context),
    )
    steps = steps_per_epoch(job.optim, index)
    with filling(index, data, context) as progress:
        dataset = FinetuneViews(index, data, seed=job.seed, progress=progress)

    def evaluated(final: bool) -> dict[str, float] | None:
        with unsharded(model):
            return measure(
                model,
                EvaluateViews(val_index, clip=data.clip, num_clips=1, num_crops=1),
                val_index,
                labels,
                context,
                batch_size=job.optim.batch_size,
                loading=data,
                precision=job.run.precision,
                written=final,
            )

    validation = Validation(
        evaluated,
        every=job.run.eval_every,
        measured_on=measured_on(val_index, data),
        written=context.run.predictions.is_file,
    )
    with closing(training_loader(dataset, index, job, context)) as loader:
        figures = train(job, task, loader, context, steps=steps, validation=validation)
    if figures is not None and context.world.main:
        picture_losses(context, title="finetuning")
    return figures


def measured_on(index: VideoIndex, data: FinetuneData) -> str:
    """Hash of the videos, labels and clips that a finetuning run is measured on."""
    rows = [
        (path, int(label), index.numbers(row))
        for row, (path, label) in enumerate(zip(index.paths, index.labels, strict=True))
    ]
    return content_hash({"rows": rows, "clip": data.clip.model_dump(mode="json")})


def refuse_other_labels(labels: Sequence[str], context: Context) -> None:
    """A head that has begun to learn has a place for each of its labels, and for no other.

    Raises:
        BadInput: in every process, if the index has other labels now.
    """
    began = context.run.read_labels() if context.run.complete_checkpoints() else ()
    if began and began != tuple(labels):
        raise BadInput(
            f"data.index: its labels are {', '.join(labels)}, and {', '.join(began)} when this run "
            "began; put the index back as it was, or start a new run with this one as init"
        )


def _class_weight(job: FinetuneJob, index: VideoIndex, context: Context) -> Tensor | None:
    """Factors on the losses of classes; None where all are 1."""
    if not job.balanced:
        return None
    label = torch.tensor(index.labels.tolist(), device=context.world.device)
    return class_weights(label, num_classes=len(index.label_names), balanced=True)


def run_evaluate(job: EvaluateJob, context: Context) -> dict[str, float] | None:
    """Measures a finetuned run on an index with any number of views."""
    source = load_classifier(resolve_run(job.source), which=job.checkpoint)
    data = job.data
    index = open_index(data.index, root=data.root, labels=source.labels, field="data.index")
    index.require_labels()
    context.events.started(
        resumed_step=0,
        total_steps=len(index),
        device=str(context.world.device),
        message=f"evaluate {source.job.model.name} at step {source.step}",
    )
    views = EvaluateViews(
        index, clip=source.job.data.clip, num_clips=data.num_clips, num_crops=data.num_crops
    )
    return measure(
        source.model.to(context.world.device),
        views,
        index,
        source.labels,
        context,
        batch_size=data.batch_size,
        loading=data,
        precision=job.run.precision,
        probabilities=data.probabilities,
    )


def start_from(source: str | None, model: CMAEV | VideoClassifier, context: Context) -> None:
    """Loads the weights that a job starts from; a run that resumes has weights of its own."""
    if source is None or newest_checkpoint(context.run) is not None:
        return
    report = checked(lambda: load_pretrained(model, source), field="init")
    for line in report.lines():
        logger.info("init: %s", line)
    for text in report.warnings:
        context.events.warning(f"init: {text}")


def train(
    job: PretrainJob | FinetuneJob,
    task: Task,
    loader: Loader,
    context: Context,
    *,
    steps: int,
    validation: Validation | None = None,
) -> dict[str, float] | None:
    """Trains to the last step; returns the figures of the last evaluation, None if stopped."""
    torch.manual_seed(job.seed * 65_537 + context.world.rank)
    trainer = Trainer(
        task,
        loader,
        optim=job.optim,
        control=job.run,
        steps_per_epoch=steps,
        run=context.run,
        spec_hash=content_hash(job),
        world=context.world,
        events=context.events,
        stop=context.stop,
        validation=validation,
        sharded=job.resources.shard == "full",
    )

    def accept() -> None:
        if context.world.main:
            context.run.accept(job)

    return trainer.figures if trainer.fit(on_restored=accept) == "finished" else None


def picture_pretraining(model: CMAEV, loader: Loader, context: Context) -> None:
    """Original, masked and rebuilt clips of the first batch, and the loss curve."""
    batch = next(loader.epoch(0))
    device = context.world.device
    video = FrameNormaliser().to(device)(batch["online"][:PICTURED_CLIPS].to(device))
    path = context.run.pictures / "reconstruction.png"
    reconstruction_strip(model, video, batch["mask"][:PICTURED_CLIPS].to(device), path)
    context.events.artifact("picture", path)
    picture_losses(context, title="pretraining")


def picture_losses(context: Context, *, title: str) -> None:
    """The loss curve of this run."""
    path = context.run.pictures / "loss.png"
    loss_curve(read_metrics(context.run.metrics), path, title=title)
    context.events.artifact("picture", path)


def last_metrics(run: RunDir, *, step: int) -> dict[str, float]:
    """The step that a run ended with, and the losses that were logged last."""
    last: dict[str, float] = next(reversed(read_metrics(run.metrics)), {})
    kept = ("loss", "instance", "feature", "bad", "skipped")
    return {"steps": float(step), **{name: last[name] for name in last if name.startswith(kept)}}


Built = TypeVar("Built")


def checked(build: Callable[[], Built], *, field: str) -> Built:
    """Builds something from the spec; what a constructor refuses is bad input of that field."""
    try:
        return build()
    except ValueError as error:
        raise BadInput(f"{field}: {error}") from None


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
