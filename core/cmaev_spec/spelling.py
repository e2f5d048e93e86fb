"""What a name that stands for nothing was meant to be."""

import difflib
from collections.abc import Collection, Iterator, Sequence
from typing import Final, get_args

from cmaev_spec.base import Spec

SYNONYMS: Final = {
    "lr": "base_lr",
    "learning_rate": "base_lr",
    "max_lr": "base_lr",
    "min_lr": "base_min_lr",
    "wd": "weight_decay",
    "bs": "batch_size",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "warmup": "warmup_epochs",
    "accum_iter": "accumulate",
    "gradient_accumulation_steps": "accumulate",
    "grad_clip": "clip_grad",
    "max_grad_norm": "clip_grad",
    "num_workers": "workers",
    "num_frames": "frames",
    "sampling_rate": "stride",
    "img_size": "size",
    "image_size": "size",
    "input_size": "size",
    "resolution": "size",
    "amp": "precision",
    "dtype": "precision",
    "drop_path": "drop_path_rate",
    "dropout": "head_drop_rate",
    "smoothing": "label_smoothing",
    "tau": "temperature",
    "ema": "momentum",
    "gpus": "processes_per_node",
    "num_gpus": "processes_per_node",
    "random_state": "seed",
}
"""Names that others have for fields."""


def nearest(word: str, known: Collection[str], *, count: int, cutoff: float = 0.6) -> list[str]:
    """The known names that `word` most likely means, the likeliest first.

    Args:
        word: a name that is not known.
        known: all there are.
        count: how many to return at most.
        cutoff: how much they must have in common with it, from 0 to 1; a synonym need not.
    """
    synonym = SYNONYMS.get(word)
    if synonym is not None and synonym in known:
        return [synonym]
    return difflib.get_close_matches(word, known, n=count, cutoff=cutoff)


def field_meant(job: type[Spec], field: Sequence[str]) -> str | None:
    """The dotted name of what an unknown field most likely means; None if nothing is near.

    A field of that name, or of a synonym, in another section comes before one that is spelt alike.

    Args:
        job: the kind of job.
        field: names of its sections and its own.
    """
    *sections, word = field
    section = ".".join(sections)
    names = list(_fields(job))
    same = [name for name in names if _last(name) in (word, SYNONYMS.get(word))]
    if same:
        return max(same, key=lambda name: name.rpartition(".")[0] == section)
    beside = {_last(name): name for name in names if name.rpartition(".")[0] == section}
    near = nearest(word, beside, count=1)
    return beside[near[0]] if near else None


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _fields(spec: type[Spec], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields and sections, also of those that may be None."""
    for name, info in spec.model_fields.items():
        yield prefix + name
        for inner in (info.annotation, *get_args(info.annotation)):
            if isinstance(inner, type) and issubclass(inner, Spec):
                yield from _fields(inner, f"{prefix}{name}.")
