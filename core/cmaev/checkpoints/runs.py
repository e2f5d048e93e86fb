"""Models of our own runs: their weights, and the whole model as its job describes it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cmaev.checkpoints.weights import Weights
from cmaev.engine.checkpoint import load_model_state, newest_checkpoint
from cmaev.engine.retention import best, read_manifests
from cmaev.models import CMAEV, VideoClassifier, create_model, create_pretraining_model
from cmaev_spec.checkpoint import read_manifest
from cmaev_spec.exits import BadInput
from cmaev_spec.job import FinetuneJob, PretrainJob, Which
from cmaev_spec.rundir import RunDir

_FIELDS: Final = {"img_size": "data.clip.size", "num_frames": "data.clip.frames"}
"""Arguments of models that have other fields than `model`."""


@dataclass(frozen=True)
class LoadedClassifier:
    """A finetuned model, ready to classify."""

    model: VideoClassifier
    """In eval mode; normalised (B, C, T, H, W) -> (B, num_classes) logits."""
    labels: tuple[str, ...]
    job: FinetuneJob
    step: int


def from_run(run: RunDir) -> Weights:
    """The weights of a run's newest complete checkpoint.

    Raises:
        BadInput: if it is no run, or has no complete checkpoint.
    """
    return Weights(origin=f"{run.read_job().kind} run", tensors=load_model_state(_checkpoint(run)))


def load_run_model(run: RunDir) -> CMAEV | VideoClassifier:
    """Rebuilds the model of a pretrain or finetune run from its newest complete checkpoint.

    Raises:
        BadInput: if the run is of another kind, or has no complete checkpoint.
    """
    job = run.read_job()
    if not isinstance(job, PretrainJob):
        return load_classifier(run).model
    model = build_pretraining_model(job)
    model.load_state_dict(load_model_state(_checkpoint(run)))
    return model.eval()


def load_classifier(run: RunDir, *, which: Which = "newest") -> LoadedClassifier:
    """Rebuilds the classifier of a finetune run from a complete checkpoint.

    Args:
        run: the run.
        which: its newest checkpoint, or of those that were measured the best one.

    Raises:
        BadInput: if the run is of another kind, or has no complete checkpoint.
    """
    job = run.read_job()
    if not isinstance(job, FinetuneJob):
        raise BadInput(f"source: {run.path.name} is a {job.kind} run; a finetune run is needed")
    labels = run.read_labels()
    folder = _checkpoint(run) if which == "newest" else _best_checkpoint(run, job)
    model = build_classifier(job, num_classes=len(labels))
    model.load_state_dict(load_model_state(folder))
    return LoadedClassifier(
        model=model.eval(),
        labels=labels,
        job=job,
        step=int(folder.name.removeprefix("step-")),
    )


def build_pretraining_model(job: PretrainJob) -> CMAEV:
    """The model of a pretrain job with initial weights.

    Raises:
        BadInput: for an unknown model, or a clip that does not fit its patches.
    """
    objective = job.objective
    try:
        return create_pretraining_model(
            job.model.name,
            num_frames=job.data.clip.frames,
            img_size=job.data.clip.size,
            drop_path_rate=job.model.drop_path_rate,
            decoder_depth=objective.decoder_depth,
            reconstruction_weight=objective.reconstruction_weight,
            contrast_weight=objective.contrast_weight,
            contrast_scale=objective.contrast_scale,
            temperature=objective.temperature,
            target_final_norm=objective.target_final_norm,
            online_feature=objective.online_feature,
            symmetric=objective.symmetric,
            norm_pix=objective.norm_pix,
            decoder_keep_ratio=objective.decoder_keep_ratio,
            target_keep_ratio=objective.target_keep_ratio,
            target_precision=objective.target_precision,
            temporal_kernel=job.model.temporal_kernel,
            multiscale=job.model.multiscale,
            sparse_stages=job.model.sparse_stages,
        )
    except ValueError as error:
        raise _named_by_field(error) from None


def build_classifier(job: FinetuneJob, *, num_classes: int) -> VideoClassifier:
    """The classifier of a finetune job with initial weights.

    Raises:
        BadInput: for an unknown model, or a clip that does not fit its patches.
    """
    try:
        return create_model(
            job.model.name,
            num_classes=num_classes,
            num_frames=job.data.clip.frames,
            img_size=job.data.clip.size,
            drop_path_rate=job.model.drop_path_rate,
            head_drop_rate=job.model.head_drop_rate,
            init_scale=job.model.init_scale,
            temporal_kernel=job.model.temporal_kernel,
        )
    except ValueError as error:
        raise _named_by_field(error) from None


def _named_by_field(error: ValueError) -> BadInput:
    """What a model says of its arguments, with the field that it was given by."""
    argument = str(error).partition(" ")[0]
    return BadInput(f"{_FIELDS.get(argument, 'model')}: {error}")


def _best_checkpoint(run: RunDir, job: FinetuneJob) -> Path:
    by = job.run.keep_best
    folder = None if by is None else best(read_manifests(run), by=by)
    if folder is None:
        raise BadInput(
            f"checkpoint: no checkpoint of {run.path.name} was measured and kept as the best one; "
            "run.eval_every and run.keep_best of the run decide that; take the newest"
        )
    try:
        read_manifest(folder)
    except ValueError as error:
        raise BadInput(f"checkpoint: the best one cannot be read: {error}") from None
    return folder


def _checkpoint(run: RunDir) -> Path:
    run.read_job()
    folder = newest_checkpoint(run)
    if folder is None:
        raise BadInput(f"run {run.path.name} has no complete checkpoint yet")
    return folder
