"""Jobs from Python are those of the command line: bit for bit, and with the same refusals."""

import csv
import threading
from pathlib import Path

import pytest
import torch
import yaml
from runs import job, losses
from typer.testing import CliRunner

from cmaev import BadInput, Run, finetune, pretrain
from cmaev.cli import build
from cmaev.engine.checkpoint import load_model_state, newest_checkpoint
from cmaev_spec.rundir import RunDir

SMALL = {"epochs": 2, "batch_size": 8, "warmup_epochs": 1, "log_every": 1, "checkpoint_every": 1}


def listed(folder: Path, name: str) -> tuple[list[Path], list[str]]:
    """Videos and labels of an index."""
    with open(folder / name, newline="") as file:
        rows = list(csv.DictReader(file))
    return [folder / row["path"] for row in rows], [row["label"] for row in rows]


def assert_same(run: Run, other: RunDir) -> None:
    folder = RunDir(run.path)
    assert losses(folder) == losses(other)
    states = []
    for each in (folder, other):
        checkpoint = newest_checkpoint(each)
        assert checkpoint is not None
        states.append(load_model_state(checkpoint))
    ours, theirs = states
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.usefixtures("own_signals")
def test_pretraining_equals_that_of_the_command(videos, tmp_path):
    """Also from another thread."""
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(job("pretrain", videos).model_dump(mode="json")))
    arguments = ["train", str(spec), "--run-dir", str(tmp_path / "command")]
    assert CliRunner().invoke(build(), arguments).exit_code == 0
    runs = []

    def train():
        files, _ = listed(videos, "train.csv")
        runs.append(pretrain(files, out=tmp_path / "python", progress=False, **SMALL))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    (run,) = runs
    assert run.finished
    assert run.figures["steps"] == 4
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]
    assert_same(run, RunDir(tmp_path / "command"))


@pytest.mark.slow
def test_finetuning_equals_that_of_the_command(videos, pretrained, finetuned, tmp_path):
    val_files, val_labels = listed(videos, "val.csv")
    run = finetune(
        *listed(videos, "train.csv"),
        val_videos=val_files,
        val_labels=val_labels,
        source=Run(pretrained.path),
        out=tmp_path / "python",
        progress=False,
        **SMALL,
    )
    assert run.labels == ("left", "right")
    assert_same(run, finetuned)
    assert run.figures == Run(finetuned.path).figures


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "nano-pretrian"}, "preset: no preset 'nano-pretrian'; did you mean"),
        ({"preset": "nano-finetune"}, "preset: nano-finetune is for finetune jobs"),
        ({"epochs": 0}, "epochs: Input should be greater than or equal to 1"),
        ({"base_lr": float("nan")}, "base_lr: Input should be a finite number"),
        ({"base_lr": float("inf")}, "base_lr: Input should be a finite number"),
        ({"base_lr": -1.0}, "base_lr: Input should be greater than 0"),
        ({"cache": "disk"}, "cache: Input should be 'none', 'memory' or 'device'"),
        ({"epochs": 1}, "warmup_epochs: 3 must be less than epochs (1); set it to 0"),
        ({"batch_size": 7, "accumulate": 2}, "batch_size: 7 must be a multiple of accumulate (2)"),
        ({"source": "nowhere"}, "source: {cwd}/nowhere is not there"),
        ({"out": "s3://bucket/run"}, "s3://bucket/run: it is written to a local folder"),
        ({"source": ""}, "source: is empty; give a path"),
        ({"source": 3}, "source: 3 is no path; give a string or a Path"),
        ({"out": None}, "out: None is no path; give a string or a Path"),
        ({"out": ""}, "out: is empty; give a path"),
        ({"videos": ""}, "videos: is empty; give a path"),
        ({"videos": None}, "videos: None is no list of videos, and no path of an index"),
        ({"out": "full"}, "out: {cwd}/full is not empty and is no run directory"),
    ],
)
def test_bad_arguments_are_named(changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.mp4").touch()
    Path("full").mkdir()
    Path("full/file").touch()
    with pytest.raises(BadInput) as caught:
        pretrain(**{"videos": ["a.mp4"], "out": "run", **changes})
    assert message.format(cwd=tmp_path) in str(caught.value)
    assert not Path("run").exists(), "nothing is left of it"


def test_a_misspelt_argument_is_a_type_error(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(TypeError, match="did you mean 'batch_size'"):
        pretrain([tmp_path / "a.mp4"], out=tmp_path / "run", batchsize=4)


def test_a_source_of_another_model_is_told_at_once(pretrained, videos, tmp_path):
    other = {"preset": "nano-convvit-finetune", "source": pretrained.path}
    with pytest.raises(BadInput, match="model: source is a run of cmaev_vit_nano_patch8_32"):
        finetune(*listed(videos, "train.csv"), out=tmp_path / "run", **other)


def test_a_checkpoint_as_a_source_is_told_its_run(pretrained, videos, tmp_path):
    checkpoint = pretrained.complete_checkpoints()[-1]
    for place in (checkpoint, checkpoint.parent, checkpoint / "state"):
        with pytest.raises(BadInput) as caught:
            finetune(*listed(videos, "train.csv"), out=tmp_path / "run", source=place)
        told = f"source: {place} is a part of the run {pretrained.path}; give the run"
        assert str(caught.value).startswith(told)


def test_labels_to_measure_on_need_videos(videos, tmp_path):
    with pytest.raises(BadInput, match="val_labels: they have no val_videos"):
        finetune(*listed(videos, "train.csv"), out=tmp_path / "run", val_labels=["left"])
