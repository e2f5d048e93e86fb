"""The loop on a toy task: resumed equals uninterrupted, accumulated equals whole."""

import json
import shutil

import pytest
import torch
from torch import nn
from toy import NoisyTask, result, train

from cmaev.engine.checkpoint import newest_checkpoint
from cmaev.engine.events import read_metrics
from cmaev_spec.rundir import RunDir


@pytest.mark.parametrize("stop_at", [(0, 0), (0, 3), (1, 4), (2, 0)])
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one(tmp_path, stop_at):
    status, whole = train(tmp_path / "whole")
    assert status == "finished"
    assert train(tmp_path / "parts", stop_at=stop_at)[0] == "stopped"
    torch.manual_seed(99)
    status, parts = train(tmp_path / "parts")
    assert status == "finished"
    weights, losses = result(whole)
    resumed_weights, resumed_losses = result(parts)
    assert resumed_losses == losses
    assert all(torch.equal(weights[name], resumed_weights[name]) for name in weights)


def test_rows_after_the_checkpoint_are_cut_and_events_are_kept(tmp_path):
    train(tmp_path, stop_at=(1, 1))
    run = RunDir(tmp_path)
    before = len(run.events.read_text().splitlines())
    with open(run.metrics, "a") as file:
        file.write(json.dumps({"step": 999, "loss": 0.0}) + '\n{"step": 10')
    train(tmp_path)
    steps = [row["step"] for row in read_metrics(run.metrics)]
    assert steps == [2, 4, 6, 8, 10, 12, 14, 15]
    assert len(run.events.read_text().splitlines()) > before


def test_a_damaged_row_is_passed_over_and_gone(tmp_path, caplog):
    """As a power failure leaves it, which kill -9 does not."""
    train(tmp_path, stop_at=(1, 1))
    run = RunDir(tmp_path)
    rows = run.metrics.read_bytes().splitlines(keepends=True)
    run.metrics.write_bytes(b"".join([rows[0], b"\0\xff\0\n", b"7\n", *rows[1:]]))
    train(tmp_path)
    assert "line 2 of" in caplog.text
    assert "line 3 of" in caplog.text
    assert [json.loads(line)["step"] for line in run.metrics.read_bytes().splitlines()] == [
        *(2, 4, 6, 8, 10, 12, 14, 15)
    ]


def test_a_copy_beside_the_checkpoints_stays(tmp_path):
    _, run = train(tmp_path, stop_at=(1, 1))
    copy = shutil.copytree(newest_checkpoint(run), run.checkpoints / "step-00000006-copy")
    train(tmp_path, keep_checkpoints=1)
    assert {path.name for path in run.checkpoints.iterdir()} == {copy.name, "step-00000015"}


def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog):
    _, run = train(tmp_path)
    newest = newest_checkpoint(run)
    (newest / "model.safetensors").write_bytes(b"rubbish")
    assert newest_checkpoint(run) == run.complete_checkpoints()[-2]
    assert "model.safetensors is damaged" in caplog.text


def test_only_the_latest_checkpoints_are_kept(tmp_path):
    _, run = train(tmp_path, keep_checkpoints=1)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000015"]


class ExactTask(NoisyTask):
    """Without dropout, so that micro-batches may be compared."""

    def __init__(self):
        super().__init__()
        self.module[1] = nn.Identity()


def test_accumulated_micro_batches_equal_the_whole_batch(tmp_path):
    _, whole = train(tmp_path / "whole", task=ExactTask())
    _, parts = train(tmp_path / "parts", task=ExactTask(), accumulate=2)
    weights, losses = result(whole)
    other_weights, other_losses = result(parts)
    assert [row[3] for row in losses] == pytest.approx([row[3] for row in other_losses], rel=1e-5)
    for name in weights:
        torch.testing.assert_close(weights[name], other_weights[name], rtol=1e-4, atol=1e-6)


class ExplodingTask(NoisyTask):
    """The loss is not a number in some micro-batches, counted from 0."""

    def __init__(self, bad):
        super().__init__()
        self.bad, self.count = bad, 0

    def step(self, module, batch):
        loss = super().step(module, batch)["loss"]
        self.count += 1
        return {"loss": loss * torch.nan if self.count - 1 in self.bad else loss}


def test_steps_that_are_not_finite_are_left_out_counted_and_told(tmp_path):
    status, run = train(tmp_path, task=ExplodingTask({2, 3, 9}))
    assert status == "finished"
    rows = {row["step"]: row for row in read_metrics(run.metrics)}
    assert [rows[step]["skipped_steps"] for step in (2, 4, 8, 10, 15)] == [0, 2, 2, 3, 3]
    assert "loss" not in rows[4]
    assert rows[10]["loss"] > 0
    assert rows[10]["grad_norm"] > 0
    warnings = [line for line in run.events.read_text().splitlines() if "left out" in line]
    assert len(warnings) == 2
    assert "2 steps up to step 4 were left out" in warnings[0]
    assert all(value.isfinite().all() for value in result(run)[0].values())


def test_a_resumed_run_goes_on_counting(tmp_path):
    bad = {2, 3, 9}
    _, whole = train(tmp_path / "whole", task=ExplodingTask(bad))
    _, parts = train(tmp_path / "parts", task=ExplodingTask(bad), stop_at=(1, 1))
    task = ExplodingTask(bad)
    task.count = 7
    train(tmp_path / "parts", task=task)
    names = ("step", "loss", "grad_norm", "skipped_steps")
    columns = [
        [[row.get(name) for name in names] for row in read_metrics(run.metrics)]
        for run in (whole, parts)
    ]
    assert columns[0] == columns[1]
    assert all(
        torch.equal(*pair)
        for pair in zip(result(whole)[0].values(), result(parts)[0].values(), strict=True)
    )


@pytest.mark.parametrize("log_every", [2, 100])
def test_too_many_of_them_end_the_run_with_advice_and_save_nothing(tmp_path, log_every):
    task = ExplodingTask(range(1, 100))
    with pytest.raises(
        FloatingPointError, match=r"max_nonfinite_steps \(3\).*with a lower optim\.base_lr"
    ):
        train(tmp_path, task=task, log_every=log_every, max_nonfinite_steps=3)
    assert task.count in (5, 6)
    assert RunDir(tmp_path).complete_checkpoints() == []


class PoisonedTask(ExactTask):
    """Weights that an update of their own makes infinite."""

    def after_step(self, step, *, total_steps, taken):
        with torch.no_grad():
            self.module[0].weight[0] = torch.inf


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    with pytest.raises(FloatingPointError, match="start a new run"):
        train(tmp_path, task=PoisonedTask(), log_every=100)
    assert RunDir(tmp_path).complete_checkpoints() == []


def test_damaged_checkpoints_make_room_on_resume(tmp_path):
    train(tmp_path, stop_at=(2, 0))
    run = RunDir(tmp_path)
    newest = newest_checkpoint(run)
    assert newest.name == "step-00000011"
    (newest / "model.safetensors").write_bytes(b"rubbish")
    status, _ = train(tmp_path, keep_checkpoints=1)
    assert status == "finished"
    assert newest_checkpoint(run).name == "step-00000015"
    assert len(run.complete_checkpoints()) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.filterwarnings("ignore:run.cuda_graphs has no effect on cpu")
def test_a_compiled_run_is_the_plain_one(tmp_path):
    """With graphs asked for, which a CPU does not have: the calls around them do no harm."""
    _, plain = train(tmp_path / "plain", task=ExactTask())
    _, compiled = train(
        tmp_path / "compiled", task=ExactTask(), compile="step", cuda_graphs=True, attention="math"
    )
    weights, losses = result(plain)
    other_weights, other_losses = result(compiled)
    assert [row[3] for row in losses] == pytest.approx([row[3] for row in other_losses], rel=1e-5)
    for name in weights:
        torch.testing.assert_close(weights[name], other_weights[name], rtol=1e-4, atol=1e-6)
