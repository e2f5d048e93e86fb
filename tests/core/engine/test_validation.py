"""Measuring while training goes on: when, what is kept for it, and what a crash leaves of it."""

import json

import pytest
from runs import equal
from toy import result, train

from cmaev.engine.events import read_metrics
from cmaev.engine.validation import Validation
from cmaev_spec.checkpoint import peek_manifest
from cmaev_spec.rundir import RunDir

TOP1 = {5: 0.9, 10: 0.5, 15: 0.6}


class Scripted:
    """Figures by the number of the call, of which some are stopped."""

    def __init__(self, *figures):
        self.figures = list(figures)
        self.final = []

    def __call__(self, final):
        self.final.append(final)
        value = self.figures.pop(0)
        return None if value is None else {"top1": value, "num_videos": 4.0}


def measured(run):
    return [
        (row["step"], row["val_top1"]) for row in read_metrics(run.metrics) if "val_top1" in row
    ]


def names(run):
    return [path.name for path in sorted(run.checkpoints.iterdir())]


def test_each_epoch_that_is_due_is_measured(tmp_path):
    """With a checkpoint, also where none is due; the training does not notice."""
    script = Scripted(0.9, 0.5, 0.6)
    settings = {"keep_best": "top1", "keep_checkpoints": 1, "checkpoint_every": 3}
    status, run = train(tmp_path / "run", validation=Validation(script, every=1), **settings)
    assert status == "finished"
    assert script.final == [False, False, True]
    assert measured(run) == [*TOP1.items()]
    assert names(run) == ["step-00000005", "step-00000015"]
    _, plain = train(tmp_path / "plain")
    weights, losses = result(run)
    assert equal(weights, result(plain)[0])
    assert losses == result(plain)[1]


def test_without_an_interval_the_last_epoch_is_measured(tmp_path):
    script = Scripted(0.3)
    _, run = train(tmp_path, validation=Validation(script, every=None))
    assert script.final == [True]
    assert peek_manifest(run.complete_checkpoints()[-1]).figures == {"top1": 0.3, "num_videos": 4}


@pytest.mark.parametrize(
    ("figures", "left"),
    [
        ((0.5, 0.5, 0.5), ["step-00000015"]),
        ((0.2, 0.5, 0.1), ["step-00000010", "step-00000015"]),
        ((0.2, 0.5, 0.5), ["step-00000015"]),
    ],
)
def test_of_equals_the_newest_is_the_best(tmp_path, figures, left):
    settings = {"keep_best": "top1", "keep_checkpoints": 1}
    _, run = train(tmp_path, validation=Validation(Scripted(*figures), every=1), **settings)
    assert names(run) == left


def test_the_best_stays_across_a_restart(tmp_path):
    settings = {"keep_best": "top1", "keep_checkpoints": 1}
    train(tmp_path, stop_at=(1, 2), validation=Validation(Scripted(0.9), every=1), **settings)
    _, run = train(tmp_path, validation=Validation(Scripted(0.5, 0.6), every=1), **settings)
    assert names(run) == ["step-00000005", "step-00000015"]


def test_an_evaluation_that_was_stopped_is_made_up_for(tmp_path):
    status, run = train(tmp_path, validation=Validation(Scripted(0.9, None), every=1))
    assert status == "stopped"
    assert names(run)[-1] == "step-00000010"
    status, _ = train(tmp_path, validation=Validation(Scripted(0.5, 0.6), every=1))
    assert status == "finished"
    assert measured(run) == [*TOP1.items()]


def test_figures_that_no_checkpoint_has_are_measured_again(tmp_path):
    """Killed after the row of the metrics, before the manifest."""
    train(tmp_path, validation=Validation(Scripted(0.9, 0.4, 0.6), every=1))
    run = RunDir(tmp_path)
    manifest = run.complete_checkpoints()[-1] / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "figures": {}}))
    train(tmp_path, validation=Validation(Scripted(0.7), every=1))
    assert measured(run) == [(5, 0.9), (10, 0.4), (15, 0.7)]
    train(tmp_path, validation=Validation(Scripted(), every=1))
    assert measured(run) == [(5, 0.9), (10, 0.4), (15, 0.7)]


def test_figures_of_other_videos_are_not_compared_with_these(tmp_path):
    settings = {"keep_best": "top1", "keep_checkpoints": 1}
    first = Validation(Scripted(0.9, 0.8), every=1, measured_on="easy videos")
    train(tmp_path, stop_at=(2, 2), validation=first, **settings)
    run = RunDir(tmp_path)
    assert names(run) == ["step-00000005", "step-00000013"]
    second = Validation(Scripted(0.2), every=1, measured_on="hard videos")
    train(tmp_path, validation=second, **settings)
    assert names(run) == ["step-00000015"]


def test_the_last_checkpoint_is_measured_again_on_other_videos(tmp_path):
    first = Validation(Scripted(0.9, 0.8, 0.7), every=1, measured_on="easy videos")
    train(tmp_path, validation=first)
    second = Validation(Scripted(0.2), every=1, measured_on="hard videos")
    _, run = train(tmp_path, validation=second)
    assert measured(run) == [(5, 0.9), (10, 0.8), (15, 0.2)]
    train(tmp_path, validation=Validation(Scripted(), every=1, measured_on="hard videos"))
    noted = peek_manifest(run.complete_checkpoints()[-1])
    assert (noted.figures["top1"], noted.measured_on) == (0.2, "hard videos")
