"""The jobs of the study: ordinary specifications, as users write them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ceiling.budget import Budget
from bench.ceiling.clips import LABELS, index

from cmaev_spec.job import EvaluateJob, FinetuneJob, PretrainJob, ProbeJob, parse_job

READOUT = (4, 4, 4)
"""(t, h, w) that the probes keep apart."""


@dataclass(frozen=True)
class Source:
    """Where the jobs of the study find clips and leave runs."""

    data: Path
    indexes: Path
    budget: Budget

    def clips(self, folds: Iterable[int], *, labelled: bool) -> dict[str, Any]:
        """The index of some folds."""
        path = index(self.indexes, folds, labelled=labelled)
        return {"index": str(path), "root": str(self.data)}


def pretraining(
    source: Source,
    folds: Iterable[int],
    *,
    seed: int,
    contrast_weight: float,
    shift: int = 2,
    epochs: int | None = None,
) -> PretrainJob:
    """Pretraining on all clips of some folds.

    Args:
        source: clips and budget.
        folds: whose clips.
        seed: of weights and order.
        contrast_weight: 0 is reconstruction alone.
        shift: p, the largest shift of the target's view, in strides.
        epochs: None for those of the budget.
    """
    budget = source.budget
    epochs = budget.pretrain_epochs if epochs is None else epochs
    job = parse_job(
        {
            "kind": "pretrain",
            "seed": seed,
            "model": {"name": budget.model},
            "objective": {"contrast_weight": contrast_weight, "mask_ratio": budget.mask_ratio},
            "data": {
                **source.clips(folds, labelled=False),
                "clip": {"frames": budget.frames, "stride": budget.stride, "size": budget.size},
                "temporal_shift": shift * budget.stride,
                "hflip": True,
                "cache": budget.cache,
            },
            "optim": {
                **_rate(budget.pretrain_lr, budget.pretrain_batch),
                "epochs": epochs,
                "warmup_epochs": epochs // 10,
            },
            "run": {"checkpoint_every": epochs, "log_every": 50},
        }
    )
    assert isinstance(job, PretrainJob)
    return job


def finetuning(
    source: Source,
    train: Iterable[int],
    test: int,
    *,
    init: Path | None,
    seed: int,
    lr: float,
    layer_decay: float,
) -> FinetuneJob:
    """Finetuning with balanced classes on clips that span the whole video."""
    budget = source.budget
    job = parse_job(
        {
            "kind": "finetune",
            "seed": seed,
            "init": None if init is None else str(init),
            "model": {"name": budget.model, "init_scale": 1.0},
            "balanced": True,
            "data": {
                **source.clips(train, labelled=True),
                "val_index": source.clips([test], labelled=True)["index"],
                "labels": list(LABELS),
                "clip": _whole_video(budget),
                "crop_area": [0.5, 1.0],
                "hflip": True,
                "cache": budget.cache,
            },
            "optim": {
                **_rate(lr, budget.finetune_batch),
                "epochs": budget.finetune_epochs,
                "warmup_epochs": budget.finetune_epochs // 10,
                "layer_decay": layer_decay,
            },
            "run": {"checkpoint_every": budget.finetune_epochs, "log_every": 50},
        }
    )
    assert isinstance(job, FinetuneJob)
    return job


def evaluation(source: Source, run: Path, test: int) -> EvaluateJob:
    """Two views in time by three in space: the middle square alone would miss people."""
    job = parse_job(
        {
            "kind": "evaluate",
            "source": str(run),
            "data": {
                **source.clips([test], labelled=True),
                "num_clips": 2,
                "num_crops": 3,
                "probabilities": True,
            },
        }
    )
    assert isinstance(job, EvaluateJob)
    return job


def probing(
    source: Source,
    train: Iterable[int],
    test: int,
    *,
    init: Path | None,
    seed: int,
    knn_only: bool = False,
) -> ProbeJob:
    """All probes of a frozen encoder; None is an encoder without training."""
    budget = source.budget
    spec: dict[str, Any] = {
        "kind": "probe",
        "seed": seed,
        "source": None if init is None else str(init),
        "model": None if init is not None and init.is_dir() else {"name": budget.model},
        "balanced": True,
        "data": {
            **source.clips(train, labelled=True),
            "val_index": source.clips([test], labelled=True)["index"],
            "labels": list(LABELS),
            "clip": _whole_video(budget),
        },
        "linear": {"pool": list(READOUT), "l2": [0.1, 1.0, 10.0]},
        "attentive": {"pool": list(READOUT)},
    }
    if knn_only:
        spec |= {"linear": None, "attentive": None}
    job = parse_job(spec)
    assert isinstance(job, ProbeJob)
    return job


def _whole_video(budget: Budget) -> dict[str, Any]:
    return {"frames": budget.frames, "size": budget.size, "sampling": "tsn"}


def _rate(lr: float, batch: int) -> dict[str, float]:
    return {"base_lr": lr * 256 / batch, "base_min_lr": 0.0, "batch_size": batch}
