"""TensorBoard shows what `metrics.jsonl` holds, also of a run that was interrupted."""

import builtins
from pathlib import Path

import pytest
from runs import events, job, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cmaev.engine import trackers
from cmaev.engine.events import EventLog, read_metrics
from cmaev.engine.trackers import (
    MLflow,
    TensorBoard,
    WeightsAndBiases,
    open_trackers,
    stable_id,
)
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


class Broken:
    """A tracker whose network goes away at step 2."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def start(self, *, resumed_step: int) -> None: ...

    def log(self, step: int, values: object) -> None:
        self.steps.append(step)
        if step == 2:
            raise ConnectionError("no route to host")

    def close(self) -> None: ...


def test_training_goes_on_without_a_tracker_that_fails(tmp_path):
    folder = RunDir(tmp_path)
    broken, board = Broken(), TensorBoard(folder)
    log = EventLog(folder, trackers=[broken, board])
    log.started(resumed_step=0, total_steps=3, device="cpu", message="")
    for step in (1, 2, 3):
        log.metric(step, {"loss": 1.0 / step})
    board.close()
    assert broken.steps == [1, 2]
    assert [step for step, _ in curves(folder.tensorboard)["loss"]] == [1, 2, 3]
    (warning,) = [event.message for event in events(folder) if event.type == "warning"]
    assert "Broken failed at step 2" in warning
    assert "no route to host" in warning


@pytest.fixture
def trained_run(videos, tmp_path):
    folder = RunDir(tmp_path / "run")
    folder.claim(job("pretrain", videos))
    return folder


def log_two_attempts(tracker, folder):
    """Steps 1 to 3, then, resumed from 2, steps 3 and 4."""
    for first, last in ((1, 3), (3, 4)):
        logged = tracker(folder)
        logged.start(resumed_step=first - 1)
        for step in range(first, last + 1):
            logged.log(step, {"loss": 1.0 / step})
        logged.close()


def test_weights_and_biases_gets_every_attempt(trained_run, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_two_attempts(WeightsAndBiases, trained_run)
    name = f"run-{stable_id(trained_run)}.wandb"
    files = sorted((trained_run.path / "wandb").glob(f"offline-run-*/{name}"))
    assert len(files) == 2
    assert all(path.stat().st_size > 0 for path in files)
    wandb.teardown()


def test_weights_and_biases_asks_for_a_login_before_training(trained_run, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(trained_run.path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match=r"run\.trackers: wandb: .*login"):
        WeightsAndBiases(trained_run).start(resumed_step=0)
    wandb.teardown()


@pytest.mark.filterwarnings("ignore")  # Those of its own database code.
def test_mlflow_goes_on_in_the_same_run(trained_run, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(BadInput, match="needs MLFLOW_TRACKING_URI"):
        MLflow(trained_run)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    log_two_attempts(MLflow, trained_run)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("cmaev")
    (kept,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(kept.info.run_id, "loss")
    assert sorted({(point.step, point.value) for point in history}) == [
        (step, 1.0 / step) for step in (1, 2, 3, 4)
    ]
    assert kept.info.status == "FINISHED"
    assert kept.data.params["optim.batch_size"] == "8"
