"""TensorBoard shows what `metrics.jsonl` holds, also of a run that was interrupted."""

import builtins
from pathlib import Path

import pytest
from runs import events, job, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cmaev.engine import trackers
from cmaev.engine.events import read_metrics
from cmaev.engine.trackers import TensorBoard, open_trackers
from cmaev_spec.exits import BadInput
from cmaev_spec.rundir import RunDir


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw, of all event files of a run together."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


@pytest.mark.usefixtures("own_signals")
def test_a_run_leaves_its_curves(videos, tmp_path):
    settings = {"log_every": 1, "checkpoint_every": 1, "trackers": ["tensorboard"]}
    code, folder = run(tmp_path / "run", job("pretrain", videos, run=settings))
    assert code == 0
    drawn = curves(folder.tensorboard)
    rows = read_metrics(folder.metrics)
    assert drawn.keys() == rows[0].keys() - {"step", "epoch"}
    for name, points in drawn.items():
        assert [step for step, _ in points] == [row["step"] for row in rows]
        assert [value for _, value in points] == pytest.approx([row[name] for row in rows])


def test_what_came_after_the_checkpoint_is_drawn_once(tmp_path):
    """Killed after step 5, resumed from the checkpoint at 3."""
    folder = RunDir(tmp_path)
    for first, last in ((1, 5), (4, 8)):
        tracker = TensorBoard(folder)
        tracker.start(resumed_step=first - 1)
        for step in range(first, last + 1):
            tracker.log(step, {"loss": 10.0 * first + step})
        tracker.close()
    points = curves(folder.tensorboard)["loss"]
    assert points == [(1, 11.0), (2, 12.0), (3, 13.0), *((n, 40.0 + n) for n in range(4, 9))]


def test_one_that_was_never_started_closes_and_leaves_nothing(tmp_path):
    TensorBoard(RunDir(tmp_path)).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("own_signals")
def test_a_missing_package_ends_the_run_before_it_begins(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    spec = job("pretrain", videos, run={"trackers": ["tensorboard"]})
    code, folder = run(tmp_path / "run", spec)
    assert code == 64
    assert "run.trackers: tensorboard is not installed" in events(folder)[-1].error
    with pytest.raises(BadInput, match=r"cmaev\[tensorboard\]"):
        open_trackers(["tensorboard"], folder, enabled=False)


def test_nothing_is_imported_where_nothing_is_asked_for(tmp_path, monkeypatch):
    def refuse(name, *arguments, **keywords):
        assert not name.startswith(("tensorboard", "torch.utils.tensorboard"))
        return real(name, *arguments, **keywords)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert open_trackers([], RunDir(tmp_path)) == []
    assert open_trackers(["tensorboard"], RunDir(tmp_path), enabled=False) == []
