"""Models of our own runs: loading weights into a new model, rebuilding a finetuned classifier."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from cmaev.engine.checkpoint import load_model_state, newest_checkpoint
from cmaev.models import VideoClassifier, create_model
from cmaev_spec.exits import BadInput
from cmaev_spec.job import FinetuneJob
from cmaev_spec.rundir import RunDir, resolve_run


@dataclass(frozen=True)
class LoadReport:
    """What came out of a checkpoint and what did not."""

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    """Names in the file that the model has no place for."""
    initial: tuple[str, ...]
    """Names of the model that the file does not have; they keep their initial values."""


@dataclass(frozen=True)
class LoadedClassifier:
    """A finetuned model, ready to classify."""

    model: VideoClassifier
    """In eval mode; normalised (B, C, T, H, W) -> (B, num_classes) logits."""
    labels: tuple[str, ...]
    job: FinetuneJob
    step: int


def load_pretrained(model: nn.Module, source: str | Path) -> LoadReport:
    """Loads the weights of a run into a model, wherever names and shapes agree.

    The encoder's final norm and everything behind it stay behind when a pretrained run goes into a
    classifier; a classifier's head is never loaded, since labels differ between runs; position
    tables are computed.

    Args:
        model: a pretraining model or a classifier.
        source: run directory or `job:<id>`.

    Raises:
        BadInput: if the run has no complete checkpoint, or nothing in it fits the model.
    """
    folder = _checkpoint(resolve_run(str(source)))
    state = load_model_state(folder)
    own = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in state.items()
        if name in own and own[name].shape == tensor.shape and not name.startswith("head.")
    }
    if not any(name.startswith("encoder.") for name in fitting):
        raise BadInput(f"init: nothing in {source} fits this model: {_mismatch(state, own)}")
    missing = [
        name
        for name in own
        if name.startswith("encoder.")
        and not name.startswith("encoder.norm.")
        and name not in fitting
    ]
    if missing:
        raise BadInput(f"init: {source} is another architecture: {_mismatch(state, own)}")
    model.load_state_dict(fitting, strict=False)
    return LoadReport(
        loaded=tuple(sorted(fitting)),
        skipped=tuple(sorted(state.keys() - fitting.keys())),
        initial=tuple(sorted(own.keys() - fitting.keys())),
    )


def load_classifier(run: RunDir) -> LoadedClassifier:
    """Rebuilds the classifier of a finetune run from its newest complete checkpoint.

    Raises:
        BadInput: if the run is of another kind, or has no complete checkpoint.
    """
    job = run.read_job()
    if not isinstance(job, FinetuneJob):
        raise BadInput(f"source: {run.path.name} is a {job.kind} run; a finetune run is needed")
    labels = run.read_labels()
    folder = _checkpoint(run)
    model = build_classifier(job, num_classes=len(labels))
    model.load_state_dict(load_model_state(folder))
    return LoadedClassifier(
        model=model.eval(),
        labels=labels,
        job=job,
        step=int(folder.name.removeprefix("step-")),
    )


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
        raise BadInput(f"model: {error}") from None


def _checkpoint(run: RunDir) -> Path:
    run.read_job()
    folder = newest_checkpoint(run)
    if folder is None:
        raise BadInput(f"run {run.path.name} has no complete checkpoint yet")
    return folder


def _mismatch(state: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    for name, tensor in state.items():
        if name.startswith("encoder.") and name in own and own[name].shape != tensor.shape:
            return f"{name} is {tuple(tensor.shape)} there and {tuple(own[name].shape)} here"
    return f"its names start like {', '.join(sorted(state)[:3])}"
