"""What a probe job does: encode every video once, then ask each probe."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cmaev.checkpoints import load_pretrained
from cmaev.data.index import VideoIndex, open_index
from cmaev.engine.context import Context
from cmaev.engine.events import MetricLog
from cmaev.engine.progress import ProgressDisplay
from cmaev.models import create_pretraining_model
from cmaev.models.encoder import VideoEncoder
from cmaev.tasks import probe as probes
from cmaev.tasks.evaluate import Evaluation
from cmaev.tasks.features import Features, Grid, extract
from cmaev.tasks.measure import write_evaluation
from cmaev.tasks.weights import class_weights
from cmaev_spec.data import ClipSpec
from cmaev_spec.exits import BadInput
from cmaev_spec.files import write_atomic
from cmaev_spec.job import FinetuneJob, PretrainJob, ProbeJob
from cmaev_spec.probe import FrozenEncoderSpec
from cmaev_spec.rundir import resolve_run


def run_probe(job: ProbeJob, context: Context) -> dict[str, float] | None:
    """Measures each probe on the validation index; None if it was stopped.

    A probe job has no checkpoints: one that was stopped starts over, and ends the same.
    """
    data = job.data
    train_index = open_index(data.index, root=data.root, labels=data.labels, field="data.index")
    train_index.require_labels()
    labels = train_index.label_names
    if len(labels) < 2:
        raise BadInput(f"data.index: {data.index} has {len(labels)} label; two are the least")
    val_index = open_index(data.val_index, root=data.root, labels=labels, field="data.val_index")
    val_index.require_labels()
    if context.world.main:
        write_atomic(context.run.labels, json.dumps(labels))

    subject = describe(job)
    encoder = frozen_encoder(job, subject, context).to(context.world.device)
    grids = wanted_grids(job, encoder)
    encode = partial(extract, encoder, context=context, data=data, clip=subject.clip, grids=grids)
    context.events.started(
        resumed_step=0,
        total_steps=len(train_index) + len(val_index),
        device=str(context.world.device),
        message=f"probe {subject.model.name}, {job.source or 'untrained'}",
    )
    train = encode(train_index, stage="encode train")
    val = encode(val_index, stage="encode val") if train is not None else None
    if train is None or val is None:
        return None
    return _ask_all(job, train, val, val_index, labels, context)


@dataclass(frozen=True)
class Subject:
    """Which encoder is probed, and on which clips."""

    model: FrozenEncoderSpec
    clip: ClipSpec


def describe(job: ProbeJob) -> Subject:
    """What the source of a probe job is.

    Raises:
        BadInput: if the job says too little about a file of weights, or too much about a run.
    """
    run = None if job.source is None else resolve_run(job.source)
    if run is None or not (run.spec.is_file() or str(job.source).startswith("job:")):
        if job.model is None or job.data.clip is None:
            raise BadInput("model, data.clip: both are needed, since a file of weights lacks them")
        return Subject(job.model, job.data.clip)
    source = run.read_job()
    if not isinstance(source, PretrainJob | FinetuneJob):
        raise BadInput(f"source: a {source.kind} run has no encoder; pretrain and finetune runs do")
    if job.model is not None:
        raise BadInput(f"model: leave it out; {job.source} is a run of {source.model.name}")
    model = FrozenEncoderSpec(
        name=source.model.name,
        temporal_kernel=source.model.temporal_kernel,
        multiscale=_multiscale(source),
    )
    return Subject(model, job.data.clip or source.data.clip)


def wanted_grids(job: ProbeJob, encoder: VideoEncoder) -> set[Grid]:
    """The grids that tokens are averaged down to for the probes.

    Raises:
        BadInput: if the attentive probe's heads do not divide the encoder's width.
    """
    grids = set()
    if job.linear is not None and job.linear.pool is not None:
        grids.add(job.linear.pool)
    if job.attentive is not None:
        if encoder.embed_dim % job.attentive.num_heads:
            raise BadInput(
                f"attentive.num_heads: {job.attentive.num_heads} must divide the encoder's width, "
                f"{encoder.embed_dim}"
            )
        grids.add(job.attentive.pool or encoder.grid)
    return grids


def _multiscale(source: PretrainJob | FinetuneJob) -> bool | None:
    if isinstance(source, PretrainJob):
        return source.model.multiscale
    return False if "convvit" in source.model.name else None


def frozen_encoder(job: ProbeJob, subject: Subject, context: Context) -> VideoEncoder:
    """The encoder with a final norm, that of the weights or, where they have none, a plain one.

    Raises:
        BadInput: for an unknown model, a clip that does not fit it, or weights that do not.
    """
    torch.manual_seed(job.seed)
    try:
        model = create_pretraining_model(
            subject.model.name,
            num_frames=subject.clip.frames,
            img_size=subject.clip.size,
            contrast_weight=0.0,
            temporal_kernel=subject.model.temporal_kernel,
            multiscale=subject.model.multiscale,
        )
    except ValueError as error:
        raise BadInput(f"model: {error}") from None
    if job.source is not None:
        try:
            report = load_pretrained(model, job.source)
        except BadInput as error:
            raise BadInput(f"source: {error}") from None
        for text in report.warnings:
            context.events.warning(f"source: {text}")
    return model.encoder.eval().requires_grad_(False)


def _ask_all(
    job: ProbeJob,
    train: Features,
    val: Features,
    index: VideoIndex,
    labels: tuple[str, ...],
    context: Context,
) -> dict[str, float] | None:
    figures = {"num_train_videos": float(len(train.label)), "num_videos": float(len(val.label))}
    for name, answer, notes in _answers(job, train, val, len(labels), context):
        if answer is None:
            return None
        evaluation = Evaluation(
            index=np.arange(len(val.label)),
            label=val.label.numpy(),
            probability=answer.numpy(),
        )
        if context.world.main:
            write_evaluation(evaluation, index, labels, context, suffix=f"-{name}")
        found = {**evaluation.figures(), **notes}
        del found["num_videos"]
        figures |= {f"{name}_{figure}": value for figure, value in found.items()}
    return figures


def _answers(
    job: ProbeJob, train: Features, val: Features, num_classes: int, context: Context
) -> Iterator[tuple[str, Tensor | None, dict[str, float]]]:
    """(name, probabilities or None if stopped, figures of its own) of each probe."""
    device = context.world.device
    label = train.label.to(device)
    weight = class_weights(label, num_classes=num_classes, balanced=job.balanced)
    if job.knn is not None:
        near, others = train.pooled.to(device), val.pooled.to(device)
        yield "knn", probes.knn(near, label, others, spec=job.knn, weight=weight).cpu(), {}
    if job.linear is not None:
        if context.world.any(context.stop.requested):
            yield "linear", None, {}
        own, others = (_apart(part, job.linear.pool).to(device) for part in (train, val))
        answer, l2 = probes.linear(
            own, label, others, spec=job.linear, weight=weight, seed=job.seed
        )
        yield "linear", answer.cpu(), {"l2": l2}
    if job.attentive is not None:
        grid = job.attentive.pool or train.grid
        tokens = train.tokens[grid], train.label, val.tokens[grid]
        yield "attentive", _attend(job, *tokens, weight=weight, context=context), {}


def _apart(features: Features, pool: Grid | None) -> Tensor:
    """(n, D) means, or (n, t*h*w*D) averages side by side."""
    return features.pooled if pool is None else features.tokens[pool].flatten(1).float()


def _attend(
    job: ProbeJob, train: Tensor, label: Tensor, val: Tensor, *, weight: Tensor, context: Context
) -> Tensor | None:
    spec = job.attentive
    assert spec is not None

    metrics = MetricLog(context.run.metrics, enabled=context.world.main)
    metrics.cut_back(0)
    with ProgressDisplay("attentive", total=spec.epochs, enabled=context.world.main) as display:

        def after_epoch(epoch: int, loss: float) -> bool:
            metrics.append({"step": epoch, "loss": loss})
            context.events.metric(epoch, {"loss": loss})
            context.events.progress("attentive", step=epoch, total_steps=spec.epochs)
            display.update(epoch, note=f"loss {loss:.3f}")
            return context.world.any(context.stop.requested)

        return probes.attentive(
            train,
            label,
            val,
            spec=spec,
            weight=weight,
            seed=job.seed,
            device=context.world.device,
            after_epoch=after_epoch,
        )
