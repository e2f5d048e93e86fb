"""Tables of what has been measured so far."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from bench.ceiling.clips import FOLDS, LABELS
from bench.ceiling.figures import Answers, bootstrap, confusions, interval, read_answers, recalls
from bench.ceiling.study import ARMS, SHIFTS, WEIGHTS, Study
from numpy.typing import NDArray

PROBES = ("knn", "linear", "attentive")
Counts = NDArray[np.int64]


def report(study: Study) -> str:
    """Markdown: every arm, differences between arms, the settings chosen, and the grid."""
    clips = study.clips()
    folds = [fold for fold in FOLDS if _files(study, f"final-scratch-fold{fold}-*")]
    if not folds:
        return "\n".join(["no fold is measured to the end", "", *_grid(study)])
    tested = [clip for clip in clips.values() if clip.labelled and clip.fold in folds]
    groups = sorted({clip.group for clip in tested})
    arms: dict[str, Counts] = {}
    runs: dict[str, list[float]] = {}
    for name, answers in _arms(study, folds):
        arms[name] = confusions(answers, clips, groups)
        runs[name] = [
            float(np.nanmean(recalls(confusions([run], clips, groups)))) for run in answers
        ]
    drawn = bootstrap(arms)
    lines = [
        f"Test folds {', '.join(map(str, folds))}; {len(groups)} recording groups.",
        "",
        f"| arm | runs | macro-recall | 95 % | of single runs | {' | '.join(LABELS)} |",
        "|---" * (5 + len(LABELS)) + "|",
    ]
    for name, counts in arms.items():
        low, high = interval(drawn[name])
        every = " | ".join(f"{value:.3f}" for value in recalls(counts))
        lines.append(
            f"| {name} | {len(runs[name])} | **{np.nanmean(recalls(counts)):.3f}** | "
            f"{low:.3f} to {high:.3f} | {min(runs[name]):.3f} to {max(runs[name]):.3f} | {every} |"
        )
    lines += ["", "| difference | macro-recall | 95 % |", "|---|---|---|"]
    for first, second in _pairs(list(arms)):
        difference = np.nanmean(recalls(arms[first])) - np.nanmean(recalls(arms[second]))
        low, high = interval(drawn[first] - drawn[second])
        lines.append(f"| {first} over {second} | {difference:+.3f} | {low:+.3f} to {high:+.3f} |")
    parts = [lines, _reversed(arms), _settings(study, folds), _grid(study)]
    return "\n".join(line for part in parts for line in [*part, ""])


def _reversed(arms: Mapping[str, Counts]) -> Iterator[str]:
    """How often a motion is taken for the one that it is when played backwards."""
    down, up = LABELS.index("sitdown"), LABELS.index("standup")
    yield "| arm | sitdown taken for standup | standup taken for sitdown |"
    yield "|---|---|---|"
    for name, counts in arms.items():
        matrix = counts.sum(axis=0)  # (K, K)
        share = matrix / matrix.sum(axis=1, keepdims=True)
        yield f"| {name} | {share[down, up]:.3f} | {share[up, down]:.3f} |"


def _arms(study: Study, folds: Sequence[int]) -> Iterator[tuple[str, list[Answers]]]:
    """(name, the answers of its runs, each pooled over the folds)."""
    for arm in ARMS:
        answers = _pooled(study, f"final-{arm}", folds, probe=None)
        if answers:
            yield f"{arm}, finetuned", answers
    for arm in ("untrained", "reconstruction", "cmaev"):
        for probe in PROBES:
            answers = _pooled(study, f"probe-{arm}", folds, probe=probe)
            if answers:
                yield f"{arm}, {probe}", answers


def _pooled(study: Study, name: str, folds: Sequence[int], *, probe: str | None) -> list[Answers]:
    """Run i of every fold together answers every clip."""
    columns = [_files(study, f"{name}-fold{fold}-*") for fold in folds]
    return [read_answers(files, probe=probe) for files in zip(*columns, strict=False)]


def _files(study: Study, pattern: str) -> list[Path]:
    return sorted((study.out / "tasks").glob(f"{pattern}.json"))


def _pairs(arms: Sequence[str]) -> Iterator[tuple[str, str]]:
    wanted = [
        ("cmaev, finetuned", "scratch, finetuned"),
        ("cmaev, finetuned", "reconstruction, finetuned"),
        ("reconstruction, finetuned", "scratch, finetuned"),
        ("cmaev, finetuned", "untrained, linear"),
        *((f"cmaev, {probe}", f"untrained, {probe}") for probe in PROBES),
        *((f"cmaev, {probe}", f"reconstruction, {probe}") for probe in PROBES),
    ]
    return (pair for pair in wanted if set(pair) <= set(arms))


def _settings(study: Study, folds: Sequence[int]) -> Iterator[str]:
    yield "| arm | " + " | ".join(f"fold {fold}: lr, layer decay" for fold in folds) + " |"
    yield "|---" * (1 + len(folds)) + "|"
    for arm in ARMS:
        chosen = []
        for fold in folds:
            files = _files(study, f"final-{arm}-fold{fold}-*")
            found = json.loads(files[0].read_text()) if files else {}
            chosen.append(f"{found.get('lr', '')}, {found.get('layer_decay', '')}")
        yield f"| {arm} | {' | '.join(chosen)} |"


def _grid(study: Study) -> Iterator[str]:
    found: dict[tuple[float, int], list[float]] = {}
    for weight in WEIGHTS:
        for shift in SHIFTS:
            for file in _files(study, f"grid-*-weight{weight:g}-shift{shift}"):
                value = json.loads(file.read_text())["knn_macro_recall"]
                found.setdefault((weight, shift), []).append(value)
    if found:
        yield "| weight of the contrast | shift in strides | kNN macro-recall of each seed |"
        yield "|---|---|---|"
        for (weight, shift), values in found.items():
            every = ", ".join(f"{value:.3f}" for value in values)
            yield f"| {weight:g} | {shift} | {every} |"
