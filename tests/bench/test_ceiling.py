"""The study on real clips: its figures, and that nothing is learned from a test fold."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench.ceiling.arms import Source, evaluation, finetuning, pretraining, probing
from bench.ceiling.budget import BUDGETS
from bench.ceiling.clips import FOLDS, LABELS, Clip, index, write_indexes
from bench.ceiling.figures import bootstrap, confusions, interval, macro_recall, recalls
from bench.ceiling.study import Study, Task

GROUPS = 12


def clips() -> Iterator[Clip]:
    """Three sessions a fold; a clip of each label in each, and one without a task."""
    for group in range(GROUPS):
        for label in (*LABELS, "sleeping"):
            yield Clip(
                path=f"{label}-{group}.mp4",
                label=label,
                group=f"session {group}",
                fold=group % len(FOLDS),
                labelled=label in LABELS,
            )


@pytest.fixture
def study(tmp_path: Path) -> Study:
    write_indexes(clips(), tmp_path / "indexes")
    return Study(Source(tmp_path, tmp_path / "indexes", BUDGETS["gpu"]), tmp_path)


def paths(file: str) -> set[str]:
    return {line.split(",")[0] for line in Path(file).read_text().splitlines()[1:]}


@pytest.mark.parametrize("fold", FOLDS)
def test_no_job_sees_a_clip_of_its_test_fold(study: Study, fold: int) -> None:
    others = [other for other in FOLDS if other != fold]
    tested = {clip.path for clip in clips() if clip.fold == fold}
    source, weights = study.source, Path("weights.safetensors")
    unlabelled = pretraining(source, others, seed=0, contrast_weight=1.0)
    labelled = finetuning(source, others, fold, init=None, seed=0, lr=1e-3, layer_decay=1.0)
    frozen = probing(source, others, fold, init=weights, seed=0)
    for job in (unlabelled, labelled, frozen):
        assert not paths(job.data.index) & tested
    assert any(path.startswith("sleeping") for path in paths(unlabelled.data.index))
    assert not any(path.startswith("sleeping") for path in paths(labelled.data.index))
    answered = {path for path in tested if not path.startswith("sleeping")}
    assert paths(labelled.data.val_index) == answered
    assert paths(evaluation(source, weights, fold).data.index) == answered


def test_settings_are_chosen_on_training_folds_before_the_last_training(study: Study) -> None:
    plan = study.plan(FOLDS, grid=True)
    for task, needs in plan.items():
        if task.kind == "tune":
            assert task.inner not in (task.fold, -1)
        if task.kind == "final":
            tries = [need for need in needs if need.kind == "tune"]
            assert len({(t.lr, t.layer_decay) for t in tries}) == 6
            assert {t.fold for t in needs} == {task.fold}
            assert {t.arm for t in needs} == {task.arm}
            assert (task.arm == "scratch") == (
                Task("pretrain", task.arm, task.fold, task.seed) not in needs
            )


def write_answers(file: Path, answers: dict[str, str]) -> Path:
    rows = [[float(label == answer) for label in LABELS] for answer in answers.values()]
    file.write_text(json.dumps({"paths": list(answers), "probability": rows}))
    return file


def test_recall_is_that_of_pooled_answers(tmp_path: Path) -> None:
    known = {clip.path: clip for clip in clips() if clip.labelled}
    right = {path: clip.label for path, clip in known.items()}
    always = dict.fromkeys(right, "walk")
    half = {path: right[path] if known[path].fold < 2 else "walk" for path in right}
    for answers, expected in ((right, 1.0), (always, 0.2), (half, (4 * 0.5 + 1) / 5)):
        parts = [
            write_answers(
                tmp_path / f"{fold}.json",
                {path: answer for path, answer in answers.items() if known[path].fold == fold},
            )
            for fold in FOLDS
        ]
        assert macro_recall(parts, known) == pytest.approx(expected)


def test_differences_are_paired_over_recording_groups() -> None:
    known = {clip.path: clip for clip in clips() if clip.labelled}
    groups = sorted({clip.group for clip in known.values()})
    rng = np.random.default_rng(0)
    worse = {p: LABELS.index(c.label) if rng.random() < 0.5 else 0 for p, c in known.items()}
    better = {
        p: LABELS.index(c.label) if rng.random() < 0.8 else worse[p] for p, c in known.items()
    }
    counts = {
        name: confusions([answers], known, groups)
        for name, answers in (("worse", worse), ("better", better), ("again", worse))
    }
    drawn = bootstrap(counts, draws=2000)
    assert (drawn["worse"] == drawn["again"]).all(), "both see the same drawn groups"
    assert interval(drawn["better"] - drawn["worse"])[0] > 0
    low, high = interval(drawn["better"])
    assert low < np.nanmean(recalls(counts["better"])) < high


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif("CMAEV_TEST_DATA" not in os.environ, reason="needs CMAEV_TEST_DATA")
def test_the_study_runs_in_small_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data = Path(os.environ["CMAEV_TEST_DATA"]) / "ceiling"
    command = [sys.executable, "-m", "bench.ceiling", "--data", str(data), "--out", str(tmp_path)]
    command += ["--budget", "quick", "--folds", "0"]
    subprocess.run(command, check=True)
    assert index(tmp_path / "indexes", [0], labelled=True).exists()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "cmaev, finetuned over scratch, finetuned" in again.stdout
    assert "pretrain-" not in again.stdout, "nothing is done twice"
