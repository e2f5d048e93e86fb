"""What of a job may change between the attempts of one run, and on what terms.

*Free* fields have no influence on what comes out beyond the order of sums: what a run computes on,
how it reads, logs and saves, ways to the same result in less time or memory. (Each process draws on
its own what is drawn on the device, so that much depends on their number.) *Asked* ones change what
comes out from the next step on, as a rate or an augmentation does. *Fixed* ones give weights
another shape, steps and samples another meaning, or had their effect before the first step: a new
run can take them, with this one as its `init`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cmaev_spec.data import LoadingSpec

Terms = Literal["free", "asked", "fixed"]

_FREE: Final = frozenset(
    (
        *("name", "model.grad_checkpointing", "model.sparse_stages"),
        *(f"data.{name}" for name in LoadingSpec.model_fields),
    )
)
_FREE_SECTIONS: Final = ("resources.", "run.")
_ASKED: Final = frozenset(
    (
        "run.precision",  # bf16 or fp32 is more than the order of sums
        "model.drop_path_rate",
        "model.head_drop_rate",
        "balanced",
    )
)
_FIXED: Final = frozenset(
    (
        *("optim.batch_size", "data.labels"),
        *("objective.decoder_depth", "objective.online_feature"),
    )
)
_ASKED_SECTIONS: Final = ("data.", "objective.", "optim.")
_TRAINING: Final = frozenset(("pretrain", "finetune"))


@dataclass(frozen=True)
class Change:
    """A field of a job that is not what it was."""

    field: str
    before: Any
    after: Any
    terms: Terms

    def __str__(self) -> str:
        return f"{self.field} is {self.before!r} there and {self.after!r} here"

    @property
    def told(self) -> str:
        """As an event of the run tells it, once it has happened."""
        return f"{self.field} was {self.before!r}, is {self.after!r}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """The fields in which two jobs differ, as plain data.

    Args:
        before: the job that a run directory belongs to.
        after: the job that is to go on in it.
    """
    there, here = flatten(before), flatten(after)
    return tuple(
        Change(field, there.get(field), here.get(field), terms(field, there, here))
        for field in sorted(there | here)
        if there.get(field) != here.get(field)
    )


def refuse(different: Sequence[Change], run: Path, *, allowed: bool) -> str:
    """Why a run does not take changes that are not free, and what to do; empty if it takes them."""
    kind = next((change for change in different if change.field == "kind"), None)
    if kind is not None:
        return (
            f"{run} holds a {kind.before} run, this job is {kind.after}; choose another directory"
        )
    fixed = [change.field for change in different if change.terms == "fixed"]
    if not fixed and allowed:
        return ""
    belongs = f"{run} belongs to another run: {'; '.join(map(str, different))}; choose another "
    if fixed:
        return f"{belongs}directory, since a run that has begun keeps its {', '.join(fixed)}"
    return f"{belongs}directory, or go on with the changed job by --allow-changes"


def terms(field: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Terms:
    """On what terms a field may differ between two jobs, which are flat mappings."""
    if field in _FREE or (field.startswith(_FREE_SECTIONS) and field not in _ASKED):
        return "free"
    if before.get("kind") not in _TRAINING or field in _FIXED:
        return "fixed"
    if field == "objective.contrast_weight" and not (before.get(field) and after.get(field)):
        return "fixed"  # there is no target branch at 0
    return "asked" if field in _ASKED or field.startswith(_ASKED_SECTIONS) else "fixed"


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
