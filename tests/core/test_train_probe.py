"""Whole probe jobs: what they leave, on one process and on two, and what they refuse."""

import csv
import json
import os
import signal

import numpy as np
import pytest
import torch
from runs import events, run

from cmaev.data.index import open_index
from cmaev.data.views import EvaluateViews
from cmaev.engine.checkpoint import load_model_state, newest_checkpoint
from cmaev.engine.context import Context
from cmaev.engine.distributed import World
from cmaev.engine.events import EventLog, read_metrics
from cmaev.engine.signals import StopRequest
from cmaev.models.frames import FrameNormaliser
from cmaev.probe import describe, frozen_encoder
from cmaev.tasks.features import extract
from cmaev_spec.data import ClipSpec
from cmaev_spec.job import apply_overrides, parse_job
from cmaev_spec.rundir import RunDir

pytestmark = pytest.mark.usefixtures("own_signals")

CLIP = {"frames": 8, "stride": 2, "size": 32}
PROBES = ("knn", "linear", "attentive")


def probe_job(videos, source, *changes):
    spec = {
        "kind": "probe",
        "source": None if source is None else str(source),
        "data": {"index": str(videos / "train.csv"), "val_index": str(videos / "val.csv")},
        "attentive": {"epochs": 3, "batch_size": 8},
        "resources": {"threads": 1},
    }
    if source is None:
        spec["model"] = {}
        spec["data"]["clip"] = CLIP
    return parse_job(apply_overrides(spec, changes))


def summary(folder):
    return json.loads(folder.summary.read_text())


@pytest.fixture(scope="module")
def probed(videos, pretrained, tmp_path_factory):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    spec = probe_job(videos, pretrained.path)
    code, folder = run(tmp_path_factory.mktemp("runs") / "probed", spec)
    for number, handler in before.items():
        signal.signal(number, handler)
    assert code == 0
    return folder


def test_each_probe_leaves_figures_predictions_and_confusions(probed):
    figures = summary(probed)
    assert (figures["num_train_videos"], figures["num_videos"]) == (16, 6)
    log = events(probed)
    artifacts = {event.path for event in log if event.type == "artifact"}
    for name in PROBES:
        with open(probed.path / f"predictions-{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        right = [row["label"] == row["prediction"] for row in rows]
        assert len({row["path"] for row in rows}) == 6
        assert figures[f"{name}_top1"] == sum(right) / 6
        assert 0 <= figures[f"{name}_macro_recall"] <= 1
        files = {f"predictions-{name}.csv", f"confusion-{name}.csv"}
        assert files | {f"pictures/confusion-{name}.png"} <= artifacts
    assert all((probed.path / path).is_file() for path in artifacts)
    assert [row["step"] for row in read_metrics(probed.metrics)] == [1, 2, 3]
    assert log[-1].status == "succeeded"


def test_two_processes_come_to_the_same_as_one(videos, pretrained, probed, tmp_path):
    changes = ("resources.processes_per_node=2", "data.batch_size=3")
    code, folder = run(tmp_path / "run", probe_job(videos, pretrained.path, *changes))
    assert code == 0
    assert summary(folder) == pytest.approx(summary(probed))
    for name in PROBES:
        same = [(at.path / f"predictions-{name}.csv").read_text() for at in (folder, probed)]
        rows = [list(csv.DictReader(text.splitlines())) for text in same]
        for first, second in zip(*rows, strict=True):
            assert first["path"] == second["path"]
            assert float(first["probability"]) == pytest.approx(
                float(second["probability"]), abs=2e-3
            )


class Silent:
    """Takes the place of a run's context where only its warnings are asked for."""

    def __init__(self):
        self.events = self
        self.told = []

    def warning(self, text):
        self.told.append(text)


def encoder_of(job):
    return frozen_encoder(job, describe(job), Silent())


def test_the_encoder_is_that_of_the_weights_and_frozen(videos, pretrained, finetuned):
    state = load_model_state(newest_checkpoint(pretrained))
    own = encoder_of(probe_job(videos, pretrained.path)).state_dict()
    assert all(torch.equal(value, state[f"encoder.{name}"]) for name, value in own.items())
    tuned = encoder_of(probe_job(videos, finetuned.path))
    name = "blocks.3.mlp.fc2.weight"
    expected = load_model_state(newest_checkpoint(finetuned))[f"encoder.{name}"]
    assert torch.equal(tuned.state_dict()[name], expected)
    assert torch.equal(tuned.norm.weight, torch.ones(128)), "finetuning has none to take over"
    assert not any(parameter.requires_grad for parameter in tuned.parameters())
    assert not tuned.training


def test_the_control_is_an_encoder_of_the_seed(videos):
    first, again = (encoder_of(probe_job(videos, None)).state_dict() for _ in range(2))
    other = encoder_of(probe_job(videos, None, "seed=1")).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["patch_embed.proj.weight"], other["patch_embed.proj.weight"])


def test_the_control_runs_and_keeps_fewer_tokens_on_request(videos, tmp_path):
    changes = ("attentive.pool=[2, 2, 2]", "linear.pool=[4, 2, 2]", "knn=null")
    code, folder = run(tmp_path / "run", probe_job(videos, None, *changes))
    assert code == 0
    assert set(summary(folder)) == {
        "num_train_videos",
        "num_videos",
        "linear_top1",
        "linear_macro_recall",
        "linear_l2",
        "attentive_top1",
        "attentive_macro_recall",
    }


def test_features_are_averages_of_the_tokens_of_each_video(videos, pretrained, tmp_path):
    """Against the encoder called by hand on the views that an evaluation sees."""
    job = probe_job(videos, pretrained.path)
    encoder = encoder_of(job)
    index = open_index(videos / "val.csv")
    folder = RunDir(tmp_path)
    world = World(rank=0, size=1, device=torch.device("cpu"))
    context = Context(folder, world, EventLog(folder), StopRequest())
    grids = {(4, 4, 4), (2, 1, 2)}
    clip = ClipSpec(**CLIP)
    data = job.data.model_copy(update={"batch_size": 4})
    features = extract(
        encoder, index, context=context, data=data, clip=clip, grids=grids, stage="encode"
    )
    views = EvaluateViews(index, clip=clip, num_clips=1, num_crops=1)
    video = torch.from_numpy(np.stack([views.sample(row)["video"][0] for row in range(len(index))]))
    tokens = encoder(FrameNormaliser()(video))
    assert features.grid == (4, 4, 4)
    assert features.label.tolist() == index.labels.tolist()
    torch.testing.assert_close(features.pooled, tokens.mean(dim=1), atol=1e-5, rtol=1e-4)
    assert features.tokens.keys() == grids
    near = {"atol": 1e-2, "rtol": 1e-2}
    torch.testing.assert_close(features.tokens[4, 4, 4].float(), tokens, **near)
    apart = tokens.reshape(-1, 2, 2, 4, 2, 2, 128).mean(dim=(2, 3, 5)).flatten(1, 2)
    torch.testing.assert_close(features.tokens[2, 1, 2].float(), apart, **near)


@pytest.mark.parametrize(
    ("trained", "changes", "message"),
    [
        (True, ["model.name=cmaev_vit_nano_patch8_32"], "model: leave it out"),
        (True, ["attentive.num_heads=7"], "attentive.num_heads: 7 must divide"),
        (True, ["attentive.pool=[8, 4, 4]"], "attentive.pool: (8, 4, 4) is more than the encoder"),
        (True, ["data.memory_gib=0.0001"], "data.memory_gib: the features of 16 videos"),
        (True, ["data.labels=[up, down]"], "unknown label"),
        (False, ["model.name=cmaev_vit_giant"], "model: "),
        (False, ["model.multiscale=true"], "model: multiscale has no effect on a ViT"),
        (False, ["source=nowhere.pth"], "source: nowhere.pth is not there"),
    ],
)
def test_bad_input_names_the_field(trained, changes, message, videos, pretrained, tmp_path, capsys):
    spec = probe_job(videos, pretrained.path if trained else None, *changes)
    code, folder = run(tmp_path / "run", spec)
    assert code == 64
    assert message in capsys.readouterr().err
    assert message in events(folder)[-1].error


def test_a_probe_has_no_encoder_to_probe(videos, probed, tmp_path, capsys):
    assert run(tmp_path / "run", probe_job(videos, probed.path))[0] == 64
    assert "a probe run has no encoder" in capsys.readouterr().err


def test_a_probe_that_was_stopped_starts_over(videos, pretrained, probed, tmp_path, monkeypatch):
    sample = EvaluateViews.sample

    def stop_at_once(views, index, *, epoch=0):
        os.kill(os.getpid(), signal.SIGTERM)
        return sample(views, index, epoch=epoch)

    spec = probe_job(videos, pretrained.path)
    with monkeypatch.context() as patch:
        patch.setattr(EvaluateViews, "sample", stop_at_once)
        patch.setattr(signal, "SIG_DFL", signal.SIG_IGN)  # a second signal would kill pytest
        code, folder = run(tmp_path / "run", spec)
    assert code == 75
    assert events(folder)[-1].status == "stopped"
    assert not folder.summary.exists()
    assert run(tmp_path / "run", spec)[0] == 0
    assert summary(folder) == summary(probed)
