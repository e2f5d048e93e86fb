"""Figures over pooled predictions, and how sure they are.

Shapes: n clips, K classes, S runs that answered all clips, R drawn samples.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from bench.ceiling.clips import LABELS, Clip
from numpy.typing import NDArray

Answers = Mapping[str, int]
"""The class that a run gives each clip, by path."""


def read_answers(files: Sequence[Path], *, probe: str | None = None) -> dict[str, int]:
    """The most probable classes, pooled over the files of some folds."""
    pooled: dict[str, int] = {}
    for file in files:
        found = json.loads(file.read_text())
        found = found if probe is None else found[probe]
        for path, row in zip(found["paths"], found["probability"], strict=True):
            assert path not in pooled, "a clip was tested twice"
            pooled[path] = int(np.argmax(row))
    return pooled


def macro_recall(files: Sequence[Path], clips: Mapping[str, Clip]) -> float:
    """Mean of the classes' recalls over pooled predictions."""
    answers = read_answers(files)
    return _macro(confusions([answers], clips, sorted({clips[path].group for path in answers})))


def confusions(
    runs: Sequence[Answers], clips: Mapping[str, Clip], groups: Sequence[str]
) -> NDArray[np.int64]:
    """(G, K, K) answers of all runs by recording group, true classes in rows."""
    number = {group: place for place, group in enumerate(groups)}
    counts = np.zeros((len(groups), len(LABELS), len(LABELS)), dtype=np.int64)
    for run in runs:
        for path, answer in run.items():
            clip = clips[path]
            counts[number[clip.group], LABELS.index(clip.label), answer] += 1
    return counts


def recalls(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(..., K) recalls of (..., G, K, K) confusions; NaN for a class that is not there."""
    matrix = counts.sum(axis=-3)  # (..., K, K)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.diagonal(matrix, axis1=-2, axis2=-1) / matrix.sum(axis=-1))


def _macro(counts: NDArray[np.int64]) -> float:
    return float(np.nanmean(recalls(counts)))


def bootstrap(
    counts: Mapping[str, NDArray[np.int64]], *, draws: int = 10_000, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """(R,) macro-recalls of every arm on the same drawn recording groups.

    Groups are drawn with replacement, the same ones for all arms: differences are paired.
    """
    rng = np.random.default_rng(seed)
    (number,) = {len(part) for part in counts.values()}
    times = rng.multinomial(number, np.full(number, 1 / number), size=draws)  # (R, G)
    found = {}
    for arm, part in counts.items():
        matrix = np.einsum("rg,gij->rij", times, part)  # (R, K, K)
        recall = np.diagonal(matrix, axis1=1, axis2=2) / np.maximum(matrix.sum(axis=2), 1)
        present = matrix.sum(axis=2) > 0
        found[arm] = (recall * present).sum(axis=1) / present.sum(axis=1)
    return found


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of drawn values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
