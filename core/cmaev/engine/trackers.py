"""Curves of a run in the tools that people keep them in, besides `metrics.jsonl`.

A tracker gets what is logged while the run goes on. A run that resumes repeats the steps after its
checkpoint exactly, so a tracker that keeps both has each loss twice and no other.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

from cmaev_spec.changes import flatten
from cmaev_spec.exits import BadInput
from cmaev_spec.rundir import RunDir

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes named values at steps."""

    def start(self, *, resumed_step: int) -> None:
        """The run begins, or goes on after `resumed_step`."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """What was measured since the last logged step."""
        ...

    def close(self) -> None:
        """Writes what is left; also after an error, and where nothing was started."""
        ...


class TensorBoard:
    """Event files in `tensorboard/` of the run: `tensorboard --logdir runs` compares runs."""

    def __init__(self, run: RunDir) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder: Path = run.tensorboard
        self._open = SummaryWriter
        self._writer: SummaryWriter | None = None

    def start(self, *, resumed_step: int) -> None:
        """See `Tracker`; what an earlier attempt wrote after `resumed_step` is hidden."""
        self._writer = self._open(str(self._folder), purge_step=resumed_step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        assert self._writer is not None, "start comes first"
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker`."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; its own variables (WANDB_MODE, WANDB_PROJECT, …) hold."""

    def __init__(self, run: RunDir) -> None:
        import wandb

        self._wandb, self._run = wandb, run
        self._logged: wandb.Run | None = None

    def start(self, *, resumed_step: int) -> None:
        """See `Tracker`; steps that its run has are left as they are.

        Raises:
            BadInput: if it refuses, as without a login.
        """
        try:
            self._logged = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=stable_id(self._run),
                name=self._run.path.name,
                dir=str(self._run.path),
                config=self._run.read_job().model_dump(mode="json"),
                resume="allow",
                settings=self._wandb.Settings(console="off", silent=True),
            )
        except self._wandb.errors.Error as error:
            raise BadInput(f"run.trackers: wandb: {error}") from None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        assert self._logged is not None, "start comes first"
        self._logged.log(dict(values), step=step)

    def close(self) -> None:
        """See `Tracker`."""
        if self._logged is not None:
            self._logged.finish()


class MLflow:
    """A run of the MLflow server that MLFLOW_TRACKING_URI names."""

    def __init__(self, run: RunDir) -> None:
        from mlflow.tracking import MlflowClient

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise BadInput("run.trackers: mlflow needs MLFLOW_TRACKING_URI, the server's address")
        self._run, self._client = run, MlflowClient()
        self._id: str | None = None

    def start(self, *, resumed_step: int) -> None:
        """See `Tracker`; a run that resumes goes on in the same run of the server.

        Raises:
            BadInput: if the server refuses or cannot be reached.
        """
        from mlflow.exceptions import MlflowException

        client, mark = self._client, stable_id(self._run)
        try:
            experiment = client.get_experiment_by_name(PROJECT)
            place = experiment.experiment_id if experiment else client.create_experiment(PROJECT)
            found = client.search_runs([place], filter_string=f"tags.{_MARK} = '{mark}'")
            if found:
                self._id = found[0].info.run_id
                client.update_run(self._id, status="RUNNING")
                return
            new = client.create_run(place, run_name=self._run.path.name, tags={_MARK: mark})
            self._id = new.info.run_id
            for name, value in flatten(self._run.read_job().model_dump(mode="json")).items():
                client.log_param(self._id, name, value)
        except MlflowException as error:
            raise BadInput(f"run.trackers: mlflow: {error}") from None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        assert self._id is not None, "start comes first"
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """See `Tracker`."""
        if self._id is not None:
            self._client.set_terminated(self._id)


PROJECT: Final = "cmaev"
_MARK: Final = "cmaev_run"
TRACKERS: Final[dict[str, Callable[[RunDir], Tracker]]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
"""Name, which is also that of the package -> how it begins."""


def stable_id(run: RunDir) -> str:
    """The same for every attempt of a run, another one for every other directory."""
    return hashlib.sha256(str(run.path).encode()).hexdigest()[:16]


class Forwarding:
    """Forwards to trackers; one that fails is left behind, since training can do without it."""

    def __init__(self, trackers: Sequence[Tracker], *, warn: Callable[[str], None]) -> None:
        self._trackers, self._warn = [*trackers], warn

    def start(self, *, resumed_step: int) -> None:
        """See `Tracker`; nothing has been trained yet, so errors are told at once."""
        for tracker in self._trackers:
            tracker.start(resumed_step=resumed_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for tracker in [*self._trackers]:
            try:
                tracker.log(step, values)
            except Exception as error:  # Of networks and disks that are not ours.
                self._trackers.remove(tracker)
                name = type(tracker).__name__
                logger.warning("%s failed", name, exc_info=True)
                self._warn(
                    f"{name} failed at step {step} and gets no more: {error}; metrics.jsonl goes on"
                )


def open_trackers(names: Sequence[str], run: RunDir, *, enabled: bool = True) -> list[Tracker]:
    """The trackers that a job asks for.

    Args:
        names: of `TRACKERS`.
        run: where they write.
        enabled: False on ranks that write nothing; they check the names all the same.

    Raises:
        BadInput: in every process, if the package of one is not installed.
    """
    for name in names:
        assert name in TRACKERS, f"no tracker {name!r}; there are: {', '.join(TRACKERS)}"
        if find_spec(name) is None:
            raise BadInput(
                f"run.trackers: {name} is not installed; pip install 'cmaev[{name}]', or leave it "
                "out"
            )
    return [TRACKERS[name](run) for name in names] if enabled else []
