"""Whole runs on a few real mp4 files, as the command line and the workers start them."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest
import torch
from runs import command, events, job, losses, run
from typer.testing import CliRunner

from cmaev import launch
from cmaev.checkpoints import export_huggingface, load_classifier, load_pretrained
from cmaev.cli import build
from cmaev.data.views import EvaluateViews
from cmaev.engine.checkpoint import load_model_state, newest_checkpoint
from cmaev.engine.events import read_metrics
from cmaev.models import create_model, create_pretraining_model
from cmaev_spec.exits import BadInput
from cmaev_spec.job import parse_job
from cmaev_spec.rundir import RunDir

pytestmark = pytest.mark.usefixtures("own_signals")


def test_pretraining_leaves_what_a_run_directory_promises(pretrained):
    assert [row["step"] for row in read_metrics(pretrained.metrics)] == [1, 2, 3, 4]
    assert json.loads(pretrained.summary.read_text())["steps"] == 4
    log = events(pretrained)
    assert log[0].type == "started"
    assert log[-1].type == "outcome"
    assert log[-1].status == "succeeded"
    artifacts = {event.path for event in log if event.type == "artifact"}
    assert {"pictures/reconstruction.png", "pictures/loss.png"} <= artifacts
    assert all((pretrained.path / path).is_file() for path in artifacts)


def test_finetuning_starts_from_the_pretrained_encoder(videos, pretrained):
    model = create_model("cmaev_vit_nano_patch8_32", num_classes=2)
    report = load_pretrained(model, pretrained.path)
    state = load_model_state(newest_checkpoint(pretrained))
    name = "encoder.blocks.3.mlp.fc2.weight"
    assert torch.equal(model.state_dict()[name], state[name])
    assert "encoder.norm.weight" in report.skipped
    assert set(report.initial) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


def test_a_hybrid_goes_through_both_jobs(videos, tmp_path, capsys):
    """With what only it has: kernels over time, fused stages, layers numbered its own way."""
    model = {"name": "cmaev_convvit_nano_patch8_32", "temporal_kernel": 3}
    spec = job("pretrain", videos, model={**model, "grad_checkpointing": True})
    code, folder = run(tmp_path / "pretrained", spec)
    assert code == 0
    state = load_model_state(newest_checkpoint(folder))
    assert "encoder.stage1_output_decode.weight" in state
    options = {"model": model, "init": str(folder.path), "balanced": True}
    code, tuned = run(tmp_path / "finetuned", job("finetune", videos, **options))
    assert code == 0
    assert json.loads(tuned.summary.read_text())["num_videos"] == 6
    loaded = load_classifier(tuned).model
    assert not any("output_decode" in name for name in loaded.state_dict())
    assert loaded.encoder.blocks1[0].attn.kernel_size == (3, 5, 5)
    other = job("finetune", videos, **{**options, "model": {**model, "temporal_kernel": 1}})
    assert run(tmp_path / "other", other)[0] == 64
    assert "encoder.blocks1.0.attn.weight is (32, 1, 3, 5, 5) there" in capsys.readouterr().err


def test_a_target_in_fp8_trains_where_the_device_has_it(videos, pretrained, tmp_path):
    spec = job("pretrain", videos, objective__target_precision="fp8", resources__device="auto")
    code, folder = run(tmp_path / "fp8", spec)
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        assert code == 64
        assert "objective.target_precision: fp8 needs a GPU" in events(folder)[-1].error
        assert not folder.complete_checkpoints()
        return
    assert code == 0
    plain, fp8 = (load_model_state(newest_checkpoint(each)) for each in (pretrained, folder))
    assert list(fp8) == list(plain)


def test_a_run_starts_from_a_file_of_videomae_and_tells_its_licence(videos, tmp_path):
    torch.manual_seed(3)
    state = create_pretraining_model("cmaev_vit_nano_patch8_32", contrast_weight=0.0).state_dict()
    torch.save({"model": state}, tmp_path / "videomae.pth")
    spec = job("pretrain", videos, init=str(tmp_path / "videomae.pth"))
    code, folder = run(tmp_path / "run", spec)
    assert code == 0
    warnings = [event.message for event in events(folder) if event.type == "warning"]
    assert len(warnings) == 1
    assert "CC-BY-NC-4.0" in warnings[0]
    name = "encoder.blocks.0.mlp.fc1.weight"
    trained = load_model_state(newest_checkpoint(folder))[name]
    moved = (trained - state[name]).norm() / state[name].norm()
    assert 0 < moved < 0.1


def test_a_run_starts_from_a_hugging_face_folder(videos, tmp_path):
    model = create_model("cmaev_vit_nano_patch8_32", num_classes=4)
    export_huggingface(model, tmp_path / "hub")
    spec = job("finetune", videos, init=str(tmp_path / "hub"))
    code, folder = run(tmp_path / "run", spec)
    assert code == 0
    assert not [event for event in events(folder) if event.type == "warning"]


def test_weights_that_do_not_fit_are_bad_input_of_init(videos, tmp_path):
    torch.save({"model": {"fc.weight": torch.ones(2, 2)}}, tmp_path / "other.pth")
    code, folder = run(tmp_path / "run", job("finetune", videos, init=str(tmp_path / "other.pth")))
    assert code == 64
    assert events(folder)[-1].error.startswith("init: nothing in")


def test_finetuning_measures_every_held_out_video_once(finetuned):
    summary = json.loads(finetuned.summary.read_text())
    assert summary["num_videos"] == 6
    assert 0 <= summary["top1"] <= 1
    lines = (finetuned.path / "predictions.csv").read_text().splitlines()
    assert len({line.split(",")[0] for line in lines[1:]}) == 6
    assert finetuned.read_labels() == ("left", "right")


def test_the_classifier_of_a_run_can_be_rebuilt(finetuned):
    loaded = load_classifier(finetuned)
    assert loaded.labels == ("left", "right")
    assert not loaded.model.training
    with torch.inference_mode():
        assert loaded.model(torch.zeros(1, 3, 8, 32, 32)).shape == (1, 2)


def test_evaluation_agrees_with_finetuning_and_takes_more_views(videos, finetuned, tmp_path):
    def evaluate(name, **data):
        spec = parse_job(
            {
                "kind": "evaluate",
                "source": str(finetuned.path),
                "data": {"index": str(videos / "val.csv"), **data},
            }
        )
        code, folder = run(tmp_path / name, spec)
        assert code == 0
        return json.loads(folder.summary.read_text())

    assert evaluate("one") == json.loads(finetuned.summary.read_text())
    assert evaluate("many", num_clips=2, num_crops=3, probabilities=True)["num_videos"] == 6
    header = (tmp_path / "many" / "predictions.csv").read_text().splitlines()[0]
    assert header == "path,label,prediction,probability,p:left,p:right"
    confusion = (tmp_path / "many" / "confusion.csv").read_text().splitlines()
    assert confusion[0] == "true,left,right"
    assert sum(int(count) for line in confusion[1:] for count in line.split(",")[1:]) == 6
    assert (tmp_path / "many" / "pictures" / "confusion.png").is_file()


def test_a_pretraining_run_cannot_be_evaluated(videos, pretrained, tmp_path, capsys):
    spec = parse_job(
        {"kind": "evaluate", "source": str(pretrained.path), "data": {"index": "val.csv"}}
    )
    code, folder = run(tmp_path / "run", spec)
    assert code == 64
    assert "a finetune run is needed" in capsys.readouterr().err
    assert events(folder)[-1].exit_code == 64


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "pretrain",
            {"data__index": "nowhere.csv"},
            "data.index: nowhere.csv: there is no such index",
        ),
        ("pretrain", {"model__name": "cmaev_vit_giant"}, "there are: cmaev_convvit_base"),
        ("pretrain", {"model__temporal_kernel": 3}, "temporal_kernel has no effect on a ViT"),
        ("pretrain", {"optim__batch_size": 64}, "more than the 16 videos"),
        ("pretrain", {"objective__mask_ratio": 0.01}, "hides 0 of 16"),
        (
            "pretrain",
            {"data__clip": {"frames": 8, "stride": 2, "size": 36}},
            "data.clip.size: img_size (36)",
        ),
        ("finetune", {"init": "nowhere"}, "init: nowhere is not there"),
        ("finetune", {"data__val_index": "nowhere"}, "data.val_index: nowhere: there is no such"),
        ("finetune", {"data__labels": ["up", "down"]}, "unknown label"),
        ("pretrain", {"resources__device": "cuda"}, "no usable GPU"),
    ],
)
def test_bad_input_ends_with_64_and_says_what_to_do(
    kind, changes, message, videos, tmp_path, capsys
):
    if "resources__device" in changes and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, folder = run(tmp_path / "run", job(kind, videos, **changes))
    assert code == 64
    assert message in capsys.readouterr().err
    assert message in events(folder)[-1].error


def test_more_classes_than_the_head_has_are_refused(videos, finetuned, tmp_path, capsys):
    """In an evaluation, and in an index that grew between two attempts of a run."""
    rows = (videos / "val.csv").read_text().splitlines()
    (videos / "three.csv").write_text("\n".join([*rows[:-1], rows[-1].rpartition(",")[0] + ",up"]))
    data = {"index": str(videos / "three.csv")}
    spec = {"kind": "evaluate", "source": str(finetuned.path), "data": data}
    assert run(tmp_path / "evaluated", parse_job(spec))[0] == 64
    assert "three.csv:7: unknown label 'up'; use one of left, right" in capsys.readouterr().err

    folder = RunDir(shutil.copytree(finetuned.path, tmp_path / "grown"))
    grown = finetuned.read_job().model_dump(mode="json")
    index = videos / "grown.csv"
    trained = (videos / "train.csv").read_text().splitlines()
    index.write_text("\n".join([*trained[:-1], trained[-1].rpartition(",")[0] + ",up"]))
    grown["data"]["index"] = str(index)
    folder.claim(parse_job(grown), allow_changes=True)
    assert launch.main(["--run-dir", str(folder.path)]) == 64
    error = capsys.readouterr().err
    assert "data.index: its labels are left, right, up, and left, right when this run" in error
    assert folder.read_labels() == ("left", "right")


def test_a_resumed_run_does_not_need_what_it_started_from(videos, pretrained, tmp_path):
    shutil.copytree(pretrained.path, tmp_path / "pretrained")
    spec = job("finetune", videos, init=str(tmp_path / "pretrained"))
    assert run(tmp_path / "run", spec)[0] == 0
    shutil.rmtree(tmp_path / "pretrained")
    assert run(tmp_path / "run", spec)[0] == 0


def test_the_head_of_another_run_is_not_taken_over(finetuned):
    model = create_model("cmaev_vit_nano_patch8_32", num_classes=2)
    report = load_pretrained(model, finetuned.path)
    assert {"head.weight", "head.bias"} <= set(report.skipped)


def test_an_evaluation_stops_on_request(videos, finetuned, tmp_path, monkeypatch):
    spec = {
        "kind": "evaluate",
        "source": str(finetuned.path),
        "data": {"index": str(videos / "val.csv"), "batch_size": 1},
    }
    sample = EvaluateViews.sample

    def stop_at_once(views, index, *, epoch=0):
        os.kill(os.getpid(), signal.SIGTERM)
        return sample(views, index, epoch=epoch)

    monkeypatch.setattr(EvaluateViews, "sample", stop_at_once)
    with monkeypatch.context() as patch:
        patch.setattr(signal, "SIG_DFL", signal.SIG_IGN)  # a second signal would kill pytest
        code, folder = run(tmp_path / "run", parse_job(spec))
    assert code == 75
    assert events(folder)[-1].status == "stopped"
    assert not folder.summary.exists()


def test_a_run_that_failed_before_its_first_checkpoint_makes_room(videos, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(job("pretrain", videos, data__index="nowhere.csv").model_dump_json())
    arguments = ["train", str(spec), "--run-dir", str(tmp_path / "run")]
    assert CliRunner().invoke(build(), arguments).exit_code == 64
    index = f"data.index={videos / 'train.csv'}"
    assert CliRunner().invoke(build(), [*arguments, "--set", index]).exit_code == 0


def test_nothing_fits_another_architecture(pretrained):
    model = create_model("cmaev_vit_tiny_patch16_224", num_classes=2)
    with pytest.raises(BadInput, match="here"):
        load_pretrained(model, pretrained.path)


def test_the_command_refuses_a_directory_of_another_run(videos, pretrained, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(job("pretrain", videos, seed=7).model_dump_json())
    result = CliRunner().invoke(
        build(), ["train", str(spec), "--run-dir", str(pretrained.path)], catch_exceptions=True
    )
    assert isinstance(result.exception, BadInput)
    assert "belongs to another run" in str(result.exception)


def test_two_processes_train_as_one_and_measure_every_video_once(
    videos, pretrained, finetuned, tmp_path
):
    """Replicas on gloo in pretraining, which gathers keys over ranks; shards in finetuning."""
    two = {"threads": 1, "processes_per_node": 2}
    start = {"init": str(pretrained.path)}
    pretraining, finetuning = RunDir(tmp_path / "pretrain"), RunDir(tmp_path / "finetune")
    pretraining.claim(job("pretrain", videos, resources=two))
    finetuning.claim(
        job("finetune", videos, resources={**two, "shard": "full"}, run__eval_every=1, **start)
    )
    for folder, alone in ((pretraining, pretrained), (finetuning, finetuned)):
        assert subprocess.run(command(folder), check=False).returncode == 0
        assert len([event for event in events(folder) if event.type == "outcome"]) == 1
        rows = [[row for row in losses(run) if "loss" in row] for run in (folder, alone)]
        for row, expected in zip(*rows, strict=True):
            for name in row.keys() & expected.keys():
                assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
        weights = load_model_state(newest_checkpoint(alone))
        for name, value in load_model_state(newest_checkpoint(folder)).items():
            # Batch norm takes a bias before it away again: its gradient is rounding alone, which
            # AdamW makes whole steps of.
            if not re.search(r"(projector|predictor)\.(0\.bias|1\.running_mean)", name):
                torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-6, msg=name)
    summary = json.loads(finetuning.summary.read_text())
    assert summary["num_videos"] == 6
    rows = [row for row in read_metrics(finetuning.metrics) if "val_top1" in row]
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[-1]["val_top1"] == summary["top1"]
    best = max(rows, key=lambda row: (row["val_macro_recall"], row["step"]))
    assert load_classifier(finetuning, which="best").step == best["step"]
