"""Runs as objects: their answers are those of evaluation and probes."""

import csv
import shutil

import numpy as np
import pytest
import torch

from cmaev import BadInput, Run
from cmaev.data.index import open_index
from cmaev.data.views import EvaluateViews
from cmaev.engine.checkpoint import load_model_state
from cmaev.models import CMAEV, VideoClassifier
from cmaev.models.frames import FrameNormaliser
from cmaev_spec.checkpoint import add_figures, peek_manifest
from cmaev_spec.rundir import RunDir


def predictions(folder):
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_tells_what_it_left(pretrained, finetuned, tmp_path):
    run = Run(finetuned.path)
    assert run.job.kind == "finetune"
    assert run.finished
    assert run.labels == ("left", "right")
    assert run.figures["num_videos"] == 6
    assert repr(run) == f"<finetune run {run.path}, finished, top1={run.figures['top1']:.4g}>"
    assert isinstance(run.model(), VideoClassifier)
    assert isinstance(Run(str(pretrained.path)).model(), CMAEV)
    with pytest.raises(BadInput, match="is not a run directory"):
        Run(tmp_path)


def test_a_run_that_is_not_finished_has_no_figures(finetuned, tmp_path):
    shutil.copytree(finetuned.path, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    run = Run(tmp_path / "run")
    assert (run.finished, run.figures) == (False, {})
    assert "not finished" in repr(run)


def test_classification_agrees_with_the_evaluation(finetuned):
    run = Run(finetuned.path)
    rows = predictions(finetuned.path)
    assert len(rows) == 6
    for row in rows:
        first, second = run.classify(row["path"])
        assert first.label == row["prediction"]
        assert first.probability == pytest.approx(float(row["probability"]), abs=1e-4)
        assert first.probability + second.probability == pytest.approx(1.0)
        assert run.labels[first.index] == first.label
    assert len(run.classify(rows[0]["path"], top_k=1, num_clips=2, num_crops=3)) == 1


def test_the_best_checkpoint_answers_where_it_is_asked_for(finetuned, tmp_path):
    shutil.copytree(finetuned.path, tmp_path / "run")
    older, newest = RunDir(tmp_path / "run").complete_checkpoints()
    on = peek_manifest(newest).measured_on
    add_figures(older, {"macro_recall": 2.0}, measured_on=on)
    run = Run(tmp_path / "run")
    for which, folder in (("best", older), ("newest", newest)):
        weights = run.model(checkpoint=which).state_dict()
        assert all(
            torch.equal(weights[name], value) for name, value in load_model_state(folder).items()
        )
    video = predictions(finetuned.path)[0]["path"]
    order = ("best", "newest")
    best, new = (run.classify(video, checkpoint=which) for which in order)
    assert best != new
    assert new == Run(finetuned.path).classify(video)
    best, new = (run.features([video], checkpoint=which, progress=False) for which in order)
    assert not np.array_equal(best, new)


def test_classification_refuses_what_it_cannot_do(pretrained, finetuned, tmp_path):
    with pytest.raises(BadInput, match="is a pretrain run; a finetune run is needed"):
        Run(pretrained.path).classify(tmp_path)
    with pytest.raises(BadInput, match="videos are missing: video: item 0: there is no file"):
        Run(finetuned.path).classify(tmp_path / "gone.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"not a video at all" * 100)
    with pytest.raises(BadInput, match=r"bad\.mp4: it cannot be read"):
        Run(finetuned.path).classify(tmp_path / "bad.mp4")


def test_features_are_pooled_tokens(videos, pretrained, finetuned):
    index = open_index(videos / "val.csv")
    views = EvaluateViews(index, clip=Run(pretrained.path).job.data.clip, num_clips=1, num_crops=1)
    clips = FrameNormaliser()(
        torch.from_numpy(np.concatenate([views.sample(row)["video"] for row in range(6)]))
    )
    paths = list(index.paths)
    with torch.inference_mode():
        encoder = Run(pretrained.path).model().encoder
        expected = encoder(clips).mean(dim=1).numpy()
        classifier = Run(finetuned.path).model()
        logits = classifier(clips).numpy()
    found = Run(pretrained.path).features(paths, batch_size=4, progress=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    seen = Run(finetuned.path).features(videos / "val.csv", batch_size=6, progress=False)
    with torch.inference_mode():
        np.testing.assert_allclose(classifier.head(torch.from_numpy(seen)), logits, atol=1e-5)


def test_an_evaluation_is_a_run_of_its_own(videos, finetuned, tmp_path):
    run = Run(finetuned.path)
    rows = predictions(finetuned.path)
    files, labels = [row["path"] for row in rows], [row["label"] for row in rows]
    found = run.evaluate(files, labels, out=tmp_path / "test", progress=False)
    assert found.figures == run.figures
    assert predictions(found.path) == rows
    with pytest.raises(BadInput, match="videos: item 5: unknown label 'up'"):
        run.evaluate(files, [*labels[:5], "up"])


def test_pictures_are_drawn(finetuned, videos, tmp_path):
    video = open_index(videos / "val.csv").paths[0]
    page = Run(finetuned.path).pictures([video], out=tmp_path)
    assert video in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint": "bets"}, "checkpoint: Input should be 'newest' or 'best'"),
        ({"num_clips": 0}, "num_clips: Input should be greater than or equal to 1"),
        ({"num_crops": -1}, "num_crops: Input should be greater than or equal to 1"),
        ({"top_k": 0}, "top_k: 0 is no number from 1 on"),
        ({"video": ["a.mp4"]}, r"video: \['a.mp4'\] is no path; give a string or a Path"),
        ({"video": ""}, "video: is empty"),
    ],
)
def test_bad_arguments_of_classification_are_named(finetuned, arguments, message):
    with pytest.raises(BadInput, match=f"^{message}"):
        Run(finetuned.path).classify(**{"video": "a.mp4", **arguments})


def test_bad_arguments_of_features_and_models_are_named(videos, pretrained, finetuned):
    run = Run(finetuned.path)
    with pytest.raises(BadInput, match=r"^checkpoint: Input should be 'newest' or 'best'"):
        run.model(checkpoint="bets")
    with pytest.raises(BadInput, match=r"^checkpoint: Input should be 'newest' or 'best'"):
        run.features(videos / "val.csv", checkpoint="bets")
    with pytest.raises(BadInput, match=r"^batch_size: Input should be greater than"):
        run.features(videos / "val.csv", batch_size=0)
    with pytest.raises(BadInput, match=r"^checkpoint: only finetune runs measure which is best"):
        Run(pretrained.path).features(videos / "val.csv", checkpoint="best")


@pytest.mark.parametrize("path", [None, 3, ""])
def test_a_run_is_opened_by_a_path(path):
    with pytest.raises(BadInput, match=r"^path: "):
        Run(path)
