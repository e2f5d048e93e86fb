"""Fields of a job by one word each, as Python callers give them: `epochs=4` is `optim.epochs: 4`.

A word is the name of a field without the sections that it stands in. The mapping from words to
fields follows from the specification; the classes here tell it to type checkers and editors.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal, TypedDict

from cmaev_spec.base import Spec
from cmaev_spec.data import ClipSpec, RandAugmentSpec
from cmaev_spec.job import KINDS
from cmaev_spec.probe import AttentiveSpec, KnnSpec, LinearSpec
from cmaev_spec.spelling import nearest

JOBS: Final = {kind: KINDS[kind] for kind in ("pretrain", "finetune", "probe", "evaluate")}
"""Kinds of jobs that have a function in Python."""

RENAMED: Final = {"model.name": "model", "data.labels": "label_names"}
"""Fields whose last name is taken, or says too little alone."""

LEFT_OUT: Final = frozenset(
    (
        *("kind", "schema_version", "init", "source", "data.index", "data.val_index"),
        # A run knows its own model.
        "model",
        # What a pod asks for, which means nothing to a process.
        *("resources.cpus", "resources.memory_gib"),
    )
)
"""Fields that are no overrides: callers give them in other ways, or they have no effect here."""


class JobOverrides(TypedDict, total=False):
    """What every kind of job takes."""

    name: str | None
    seed: int
    device: Literal["auto", "cpu", "cuda"]
    nodes: int
    processes_per_node: int
    shard: Literal["none", "full"]
    threads: int | None
    root: str | None
    workers: int
    prefetch: int
    sample_seconds: float
    worker_memory_gib: float


class TrainingOverrides(JobOverrides, total=False):
    """What jobs with a training loop take."""

    # model
    model: str
    drop_path_rate: float
    temporal_kernel: Literal[1, 3] | None
    grad_checkpointing: bool
    # data
    frames: int
    stride: int
    size: int
    sampling: Literal["dense", "linspace", "tsn"]
    max_bad_share: float
    cache: Literal["none", "memory", "device"]
    hflip: bool
    # optim
    base_lr: float
    base_min_lr: float
    batch_size: int
    epochs: int
    warmup_epochs: int
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    accumulate: int
    clip_grad: float | None
    # run
    precision: Literal["auto", "fp32", "bf16"]
    compile: Literal["none", "blocks", "step"]
    cuda_graphs: bool
    attention: Literal["auto", "flash", "cudnn", "efficient", "math"]
    checkpoint_every: int
    keep_checkpoints: int
    keep_every: int | None
    async_checkpoints: bool
    max_nonfinite_steps: int
    log_every: int
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...]


class PretrainOverrides(TrainingOverrides, total=False):
    """What pretraining takes besides."""

    multiscale: bool | None
    sparse_stages: bool | None
    # objective
    mask_ratio: float
    decoder_depth: int | None
    reconstruction_weight: float
    contrast_weight: float
    contrast_scale: Literal["two_tau", "one"]
    temperature: float
    momentum: float
    momentum_schedule: Literal["constant", "cosine"]
    target_final_norm: bool
    online_feature: Literal["visible_mean", "feature_decoder"]
    symmetric: bool
    norm_pix: bool
    decoder_keep_ratio: float
    target_keep_ratio: float
    target_precision: Literal["auto", "fp8"]
    # data
    temporal_shift: int | None
    crop_scales: tuple[float, ...]
    color_augment: bool


class FinetuneOverrides(TrainingOverrides, total=False):
    """What finetuning takes besides."""

    head_drop_rate: float
    init_scale: float
    # data
    label_names: tuple[str, ...] | None
    crop_area: tuple[float, float]
    num_sample: int
    rand_augment: RandAugmentSpec | None
    erase_probability: float
    mixup: float
    cutmix: float
    # optim
    balanced: bool
    layer_decay: float
    label_smoothing: float
    # run
    eval_every: int | None
    keep_best: Literal["macro_recall", "top1"] | None


class ProbeOverrides(JobOverrides, total=False):
    """What probes take besides; each of the three may be None, which leaves it out."""

    label_names: tuple[str, ...] | None
    clip: ClipSpec | None
    batch_size: int
    memory_gib: float
    balanced: bool
    knn: KnnSpec | None
    linear: LinearSpec | None
    attentive: AttentiveSpec | None


class EvaluateOverrides(JobOverrides, total=False):
    """What an evaluation takes besides."""

    precision: Literal["auto", "fp32", "bf16"]
    checkpoint: Literal["newest", "best"]
    num_clips: int
    num_crops: int
    batch_size: int
    probabilities: bool


@cache
def override_fields(kind: str) -> Mapping[str, str]:
    """Word -> dotted field of every override of a kind of job."""
    fields: dict[str, str] = {}
    for path in _leaves(JOBS[kind]):
        if path in LEFT_OUT:
            continue
        word = RENAMED.get(path) or path.rpartition(".")[2]
        assert word not in fields, f"{path} and {fields[word]} share the word {word}"
        fields[word] = path
    return fields


def apply_words(data: Mapping[str, Any], overrides: Mapping[str, object]) -> dict[str, Any]:
    """A job as plain data with the fields set that the words of its kind mean.

    Args:
        data: a preset, or another job as plain data; left as it is.
        overrides: values by word.

    Raises:
        TypeError: for a word that means no field, with the nearest one that does.
    """
    fields = override_fields(data["kind"])
    result = {**data}
    for word, value in overrides.items():
        if word not in fields:
            raise TypeError(f"unexpected argument {word!r}; {_suggestion(word, list(fields))}")
        *parents, leaf = fields[word].split(".")
        node = result
        for parent in parents:
            node[parent] = node = {**(node.get(parent) or {})}
        node[leaf] = value
    return result


def in_words(kind: str, field: str) -> str:
    """The word for a field, which may have a place inside of it: `optim.betas.0` is `betas.0`."""
    for word, path in override_fields(kind).items():
        if field == path or field.startswith(f"{path}."):
            return word + field[len(path) :]
    return field


def _leaves(spec: type[Spec], prefix: str = "") -> list[str]:
    """Dotted names of all fields that are no sections."""
    leaves: list[str] = []
    for name, info in spec.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, Spec):
            leaves += _leaves(inner, f"{prefix}{name}.")
        else:
            leaves.append(prefix + name)
    return leaves


def _suggestion(word: str, known: list[str]) -> str:
    near = nearest(word, known, count=1)
    if near:
        return f"did you mean {near[0]!r}?"
    some = ", ".join(nearest(word, known, count=5, cutoff=0.0))
    return f"spelt most alike are {some}; docs/python.md tells how the {len(known)} are named"
