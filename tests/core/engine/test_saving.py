"""Checkpoints of the loop: written beside it, kept by rule, and none of it lost where one fails."""

import json
import resource
import threading
from contextlib import contextmanager

import pytest
import torch
from runs import equal
from torch import nn
from toy import NoisyTask, result, train

from cmaev.engine import checkpoint as ckpt
from cmaev.engine.background import Background
from cmaev.engine.checkpoint import load_training_state, newest_checkpoint
from cmaev.engine.snapshot import Snapshot
from cmaev_spec.exits import SaveError
from cmaev_spec.rundir import RunDir

CPU = torch.device("cpu")


def test_checkpoints_written_beside_the_training_equal_those_that_stop_it(tmp_path):
    _, beside = train(tmp_path / "beside", keep_checkpoints=9, async_checkpoints=True)
    _, within = train(tmp_path / "within", keep_checkpoints=9, async_checkpoints=False)
    folders, others = beside.complete_checkpoints(), within.complete_checkpoints()
    assert [folder.name for folder in folders] == [folder.name for folder in others]
    assert len(folders) == 3
    for folder, other in zip(folders, others, strict=True):
        assert equal(load_training_state(folder), load_training_state(other))
        assert equal(ckpt.load_model_state(folder), ckpt.load_model_state(other))
    assert result(beside)[1] == result(within)[1]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """The first save is held until a later step has been taken; it holds the earlier weights."""
    later, save = threading.Event(), ckpt.save_checkpoint

    class Telling(NoisyTask):
        def after_step(self, step, *, total_steps, taken):
            if step == 6:
                later.set()

    def held(run, **arguments):
        assert later.wait(timeout=60)
        return save(run, **arguments)

    monkeypatch.setattr(ckpt, "save_checkpoint", held)
    _, run = train(tmp_path / "held", keep_checkpoints=9, task=Telling())
    monkeypatch.undo()
    _, whole = train(tmp_path / "whole", keep_checkpoints=9, async_checkpoints=False)
    for folder, other in zip(run.complete_checkpoints(), whole.complete_checkpoints(), strict=True):
        assert equal(ckpt.load_model_state(folder), ckpt.load_model_state(other))


def test_a_stop_waits_for_its_checkpoint(tmp_path, monkeypatch):
    save, waiting = ckpt.save_checkpoint, threading.Event()

    def slow(run, **arguments):
        waiting.wait(timeout=0.2)
        return save(run, **arguments)

    monkeypatch.setattr(ckpt, "save_checkpoint", slow)
    status, run = train(tmp_path, stop_at=(0, 2))
    assert status == "stopped"
    assert [folder.name for folder in run.complete_checkpoints()] == ["step-00000003"]


def test_others_may_read_a_checkpoint(tmp_path):
    _, run = train(tmp_path)
    files = [path for path in newest_checkpoint(run).rglob("*") if path.is_file()]
    assert len(files) == 3
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in files)


def test_a_snapshot_is_no_view_of_what_it_copied():
    weight = torch.arange(6.0).reshape(2, 3).T  # not contiguous
    state = {"a": [weight, (weight, 1)], "b": {"c": "text"}}
    snapshot = Snapshot(CPU)
    snapshot.take(state)
    expected = weight.clone()
    weight.zero_()
    taken = snapshot.read()
    assert torch.equal(taken["a"][0], expected)
    assert torch.equal(taken["a"][1][0], expected)
    assert taken["a"][1][1] == 1
    assert taken["b"] == {"c": "text"}


def test_a_snapshot_is_taken_over_the_one_before():
    snapshot = Snapshot(CPU)
    kept, other = torch.zeros(3), torch.zeros(3)
    snapshot.take({"a": {"kept": kept, "gone": kept}, "b": 1})
    memory = snapshot.read()["a"]["kept"].data_ptr()
    snapshot.take({"a": {"kept": kept + 1, "new": other}, "b": {"c": other.long()}})
    taken = snapshot.read()
    assert equal(taken, {"a": {"kept": kept + 1, "new": other}, "b": {"c": other.long()}})
    assert taken["a"]["kept"].data_ptr() == memory
    snapshot.take({"a": {"kept": torch.ones(2)}})
    assert equal(snapshot.read(), {"a": {"kept": torch.ones(2)}})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_after_a_snapshot_do_not_change_it():
    weight = torch.arange(2.0**24, device="cuda")
    expected = weight.cpu()
    snapshot = Snapshot(weight.device)
    snapshot.take({"weight": weight})
    for _ in range(10):
        weight.mul_(2)
    assert torch.equal(snapshot.read()["weight"], expected)


def test_what_goes_wrong_in_the_background_comes_up_once():
    def fail():
        raise OSError("no")

    background = Background(name="test")
    assert not background.failed
    background.start(fail)
    with pytest.raises(OSError, match="no"):
        background.wait()
    background.wait()
    background.start(fail)
    with pytest.raises(OSError, match="no"):
        background.close()


class WideTask(NoisyTask):
    """Weights of a megabyte, so that a limit on files stops nothing else."""

    def __init__(self):
        super().__init__()
        self.module = nn.Sequential(nn.Linear(3, 50_000), nn.Dropout(0.5), nn.Linear(50_000, 1))


@contextmanager
def file_limit(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("limit", [400_000, 1_500_000], ids=["model", "state"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_others_whole(tmp_path, limit, mode):
    train(tmp_path, task=WideTask(), stop_at=(0, 2))
    run = RunDir(tmp_path)
    before = newest_checkpoint(run)
    with file_limit(limit), pytest.raises(SaveError, match=r"step-\d+ cannot be saved: .*File too"):
        train(tmp_path, task=WideTask(), async_checkpoints=mode)
    assert newest_checkpoint(run) == before
    assert list(run.checkpoints.iterdir()) == [before]
    assert train(tmp_path, task=WideTask())[0] == "finished"
    _, whole = train(tmp_path / "whole", task=WideTask())
    assert equal(result(run), result(whole))


def test_one_in_so_many_epochs_stays(tmp_path):
    _, run = train(tmp_path, keep_checkpoints=1, keep_every=2)
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == [
        "step-00000010",
        "step-00000015",
    ]


def test_what_a_kill_before_the_pruning_left_goes_on_resume(tmp_path):
    """Also after the last step, when no checkpoint follows that would prune."""
    _, run = train(tmp_path, keep_checkpoints=9)
    (run.checkpoints / ".step-00000015.tmp").mkdir()
    (run.checkpoints / "step-00000005" / "manifest.json").unlink()
    train(tmp_path, keep_checkpoints=1)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000015"]


def test_a_torn_manifest_is_passed_over_and_makes_room(tmp_path, caplog):
    train(tmp_path, stop_at=(2, 0), keep_checkpoints=9)
    run = RunDir(tmp_path)
    for name in ("step-00000011", "step-00000005"):
        manifest = run.checkpoints / name / "manifest.json"
        manifest.write_bytes(manifest.read_bytes()[:40])
    assert newest_checkpoint(run).name == "step-00000010"
    assert "step-00000011: manifest.json is damaged" in caplog.text
    assert train(tmp_path, keep_checkpoints=9)[0] == "finished"
    _, whole = train(tmp_path / "whole")
    assert equal(result(run), result(whole))
    assert [path.name for path in run.complete_checkpoints()] == ["step-00000010", "step-00000015"]


def test_the_event_of_a_checkpoint_tells_the_hash_of_its_manifest(tmp_path):
    _, run = train(tmp_path, keep_checkpoints=1)
    artifacts = [
        event
        for event in map(json.loads, run.events.read_text().splitlines())
        if event["type"] == "artifact"
    ]
    assert [event["path"] for event in artifacts] == [
        f"checkpoints/step-{step:08d}/model.safetensors" for step in (5, 10, 15)
    ]
    manifest = json.loads((run.checkpoints / "step-00000015" / "manifest.json").read_text())
    assert artifacts[-1]["sha256"] == manifest["files"]["model.safetensors"]["sha256"]
