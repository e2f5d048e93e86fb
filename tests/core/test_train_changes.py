"""Runs that go on with a changed job, and those that refuse to."""

import json
import shutil

import pytest
from runs import events, job, run
from typer.testing import CliRunner

from cmaev import Run, launch
from cmaev.cli import build
from cmaev.engine.checkpoint import newest_checkpoint
from cmaev.engine.events import read_metrics
from cmaev_spec.checkpoint import peek_manifest
from cmaev_spec.job import parse_job
from cmaev_spec.rundir import RunDir

pytestmark = pytest.mark.usefixtures("own_signals")


def test_a_run_goes_on_with_a_changed_job_where_that_is_allowed(pretrained, tmp_path):
    """More epochs at another rate: the steps so far stay as they are."""
    folder = RunDir(shutil.copytree(pretrained.path, tmp_path / "run"))
    (tmp_path / "spec.json").write_text(folder.spec.read_text())
    changes = ["--set", "optim.epochs=3", "--set", "optim.base_lr=0.004"]
    command = ["train", str(tmp_path / "spec.json"), "--run-dir", str(folder.path), *changes]
    refused = CliRunner().invoke(build(), command)
    assert "optim.base_lr is 0.008 there and 0.004 here; optim.epochs is 2" in str(
        refused.exception
    )
    before = read_metrics(folder.metrics)
    assert CliRunner().invoke(build(), [*command, "--allow-changes"]).exit_code == 0
    rows = read_metrics(folder.metrics)
    assert rows[: len(before)] == before
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert 0 < rows[4]["lr"] <= 0.004 * 8 / 256
    log = events(folder)
    told = [event for event in log if event.type == "warning" and "another job" in event.message]
    assert [event.message for event in told] == [
        "goes on with another job: optim.base_lr was 0.008, is 0.004; optim.epochs was 2, is 3"
    ]
    assert [event.resumed_step for event in log if event.type == "started"] == [0, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.index=nowhere.csv", "nowhere.csv"),
        ("data.index={shorter}", "it lists 15 videos, and 16 when this run began"),
        ("data.clip.size=36", "img_size"),
        ("optim={epochs}", "optim.epochs: 1 is fewer than the 2 that this run has been trained"),
    ],
)
def test_a_change_that_cannot_be_run_leaves_the_run_as_it_was(
    change, message, videos, pretrained, tmp_path, capfd
):
    folder = RunDir(shutil.copytree(pretrained.path, tmp_path / "run"))
    shorter = videos / "shorter.csv"
    shorter.write_text("\n".join((videos / "train.csv").read_text().splitlines()[:-1]) + "\n")
    spec = shutil.copy(folder.spec, tmp_path / "spec.json")
    before, began = folder.spec.read_text(), len(events(folder))
    command = ["train", str(spec), "--run-dir", str(folder.path)]
    optim = {**folder.read_job().optim.model_dump(), "epochs": 1, "warmup_epochs": 0}
    change = change.format(shorter=shorter, epochs=json.dumps(optim))
    asked = [*command, "--allow-changes", "--set", change]
    assert CliRunner().invoke(build(), asked).exit_code == 64
    assert folder.spec.read_text() == before
    (outcome,) = events(folder)[began:]
    assert outcome.type == "outcome"
    assert message in outcome.error
    assert CliRunner().invoke(build(), command).exit_code == 0


def test_the_summary_tells_the_step_of_the_weights(videos, tmp_path):
    """Also where the run ends at a step that was not logged, and where none was."""
    spec = job("pretrain", videos, optim__epochs=3, run__log_every=3)
    code, folder = run(tmp_path / "run", spec)
    assert code == 0
    shutil.rmtree(newest_checkpoint(folder))
    fewer = spec.model_dump(mode="json")
    fewer["optim"]["epochs"] = 2
    folder.claim(parse_job(fewer), allow_changes=True)
    assert launch.main(["--run-dir", str(folder.path)]) == 0
    assert read_metrics(folder.metrics)[-1]["step"] == 3
    assert json.loads(folder.summary.read_text())["steps"] == 4
    folder.metrics.unlink()
    assert launch.main(["--run-dir", str(folder.path)]) == 0
    assert json.loads(folder.summary.read_text()) == {"steps": 4}


def test_other_validation_videos_are_measured_again(videos, finetuned, tmp_path):
    """A run that is at its end, and evaluations of its best checkpoint."""
    folder = RunDir(shutil.copytree(finetuned.path, tmp_path / "run"))
    rows = (videos / "val.csv").read_text().splitlines()
    (videos / "fewer.csv").write_text("\n".join(rows[:-1]) + "\n")
    changed = folder.read_job().model_dump(mode="json")
    changed["data"]["val_index"] = str(videos / "fewer.csv")
    before = peek_manifest(newest_checkpoint(folder))
    folder.claim(parse_job(changed), allow_changes=True)
    assert launch.main(["--run-dir", str(folder.path)]) == 0
    assert json.loads(folder.summary.read_text())["num_videos"] == 5
    assert len((folder.path / "predictions.csv").read_text().splitlines()) == 6
    after = peek_manifest(newest_checkpoint(folder))
    assert after.figures["num_videos"] == 5
    assert before.measured_on != after.measured_on


def test_a_run_that_is_cut_to_a_measured_step_has_predictions_of_it(videos, tmp_path):
    """They are written at the end, which the step was not when it was measured."""
    spec = job("finetune", videos, optim__warmup_epochs=0, run__eval_every=1)
    code, folder = run(tmp_path / "run", spec)
    assert code == 0
    at_the_end = (folder.path / "predictions.csv").read_text()
    shutil.rmtree(newest_checkpoint(folder))
    fewer = spec.model_dump(mode="json")
    fewer["optim"]["epochs"] = 1
    folder.claim(parse_job(fewer), allow_changes=True)
    before = peek_manifest(newest_checkpoint(folder)).figures
    assert before
    assert launch.main(["--run-dir", str(folder.path)]) == 0
    assert (folder.path / "predictions.csv").read_text() != at_the_end
    rows = [row for row in read_metrics(folder.metrics) if "val_top1" in row]
    assert [row["val_top1"] for row in rows] == [before["top1"]]


def test_a_run_that_goes_on_has_no_results_of_the_job_before(videos, tmp_path):
    """It is not finished, and where it is cut back to the job before its end is measured again."""
    spec = job("finetune", videos, optim__warmup_epochs=0, optim__epochs=1)
    code, folder = run(tmp_path / "run", spec)
    assert code == 0
    predictions = (folder.path / "predictions.csv").read_text()
    more = spec.model_dump(mode="json")
    more["optim"]["epochs"] = 2
    folder.claim(parse_job(more), allow_changes=True)
    assert Run(folder.path).finished
    folder.accept(parse_job(more))
    assert not Run(folder.path).finished
    assert launch.main(["--run-dir", str(folder.path)]) == 0
    assert (folder.path / "predictions.csv").read_text() != predictions
    shutil.rmtree(newest_checkpoint(folder))
    folder.claim(spec, allow_changes=True)
    assert launch.main(["--run-dir", str(folder.path)]) == 0
    assert (folder.path / "predictions.csv").read_text() == predictions
    assert [row["step"] for row in read_metrics(folder.metrics)] == [1, 2, 2]
