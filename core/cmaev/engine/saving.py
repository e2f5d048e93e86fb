"""Where a run is: what a checkpoint of it holds, and how a run is put back there.

A thread writes checkpoints while training goes on. `torch.distributed.checkpoint.async_save` would,
too, but in a format of its own, in which neither users nor serving could read the weights.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmaev.data.quarantine import Quarantine
from cmaev.engine import checkpoint as ckpt
from cmaev.engine.background import Background
from cmaev.engine.distributed import World
from cmaev.engine.events import EventLog
from cmaev.engine.optim import load_moments, moments
from cmaev.engine.retention import Retention, prune_checkpoints
from cmaev.engine.sharding import gathered, load_model, whole
from cmaev.engine.snapshot import Snapshot
from cmaev.engine.update import SkippedSteps
from cmaev.engine.window import Window
from cmaev_spec.checkpoint import add_figures, peek_manifest
from cmaev_spec.exits import SaveError
from cmaev_spec.resources import FinetuneControlSpec, RunControlSpec
from cmaev_spec.rundir import RunDir

logger = logging.getLogger(__name__)


class Saving:
    """Saves a run that is in training, and puts it back where it was saved."""

    def __init__(
        self,
        run: RunDir,
        *,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        window: Window,
        skips: SkippedSteps,
        quarantine: Quarantine,
        control: RunControlSpec,
        spec_hash: str,
        world: World,
        events: EventLog,
    ) -> None:
        self._run = run
        self._module, self._optimizer = module, optimizer
        self._window, self._skips, self._quarantine = window, skips, quarantine
        self._control, self._spec_hash = control, spec_hash
        self._world, self._events = world, events
        self._snapshot = Snapshot(world.device) if control.async_checkpoints else None
        self._writer = Background(name="checkpoint", beside=control.async_checkpoints)
        self._retention = Retention(
            latest=control.keep_checkpoints,
            every=control.keep_every,
            best_by=control.keep_best if isinstance(control, FinetuneControlSpec) else None,
        )

    def save(self, step: int, *, epoch: float) -> None:
        """Begins to write a checkpoint; every process has to call it.

        It waits for the one before, and then only until there is a copy of what is saved.

        Raises:
            FloatingPointError: if the weights are not finite.
            SaveError: see `wait`.
        """
        self.wait()  # so that there is one copy at a time
        self._require_finite_weights(step)
        world = self._world
        random_states = world.gather(random_state(world.device))
        windows = world.gather(self._window.state_dict())
        weights = gathered(self._module.state_dict(), keep=world.main)
        remembered = moments(self._optimizer, self._module, keep=world.main)
        if not world.main:
            return
        state = {
            "optimizer": remembered,
            "random": random_states,
            "windows": windows,
            "skips": self._skips.state_dict(),
            "quarantine": self._quarantine.state_dict(),
        }
        taken = {"model": weights, "state": state}
        if self._snapshot is not None:
            self._snapshot.take(taken)
        read = self._snapshot.read if self._snapshot else lambda: taken
        self._writer.start(lambda: self._write(step, epoch, **read()))

    def _write(
        self, step: int, epoch: float, *, model: dict[str, Tensor], state: dict[str, Any]
    ) -> None:
        folder = ckpt.save_checkpoint(
            self._run, step=step, epoch=epoch, spec_hash=self._spec_hash, model=model, state=state
        )
        prune_checkpoints(self._run, self._retention)
        entry = peek_manifest(folder).files[ckpt.MODEL_FILE]
        self._events.artifact("checkpoint", folder / ckpt.MODEL_FILE, sha256=entry.sha256)

    def add_figures(self, step: int, figures: dict[str, float], *, measured_on: str) -> None:
        """Notes with the checkpoint of `step` how good it is; every process has to call it."""
        self.wait()
        if self._world.main:
            self._writer.start(lambda: self._add_figures(step, figures, measured_on))

    def _add_figures(self, step: int, figures: dict[str, float], measured_on: str) -> None:
        folder = ckpt.checkpoint_folder(self._run, step)
        add_figures(folder, figures, measured_on=measured_on)
        prune_checkpoints(self._run, self._retention)

    @property
    def failed(self) -> bool:
        """Whether this process could not write the last checkpoint; never waits for it."""
        return self._writer.failed

    def wait(self) -> None:
        """Waits until the last checkpoint is written; every process has to call it.

        Raises:
            SaveError: in every process, if the main one could not write it.
        """
        failure = None
        try:
            self._writer.wait()
        except Exception as error:
            failure = error
        for told in self._world.gather(None if failure is None else str(failure)):
            if told is not None:
                raise SaveError(told) from failure

    def close(self) -> None:
        """Waits for the last checkpoint in this process alone, also after an error."""
        self._writer.close()

    def _require_finite_weights(self, step: int) -> None:
        """A checkpoint of a diverged run would only push the good ones out."""
        # One pass; weights whose square is not finite have diverged as well.
        norm = torch.nn.utils.get_total_norm([p.detach() for p in self._module.parameters()])
        if not whole(norm).isfinite():
            raise FloatingPointError(diverged("weights are not finite", step=step))

    def restore(self, *, measured_on: str = "") -> tuple[int, dict[str, float]]:
        """Puts the run back to its newest checkpoint.

        Args:
            measured_on: what figures are wanted of.

        Returns:
            The step that it goes on from, 0 where there is no checkpoint, and the figures of the
            checkpoint, none where it was not measured on that.
        """
        folder = self._newest()
        if folder is None:
            self._quarantine.clear()
            return 0, {}
        state: dict[str, Any] = ckpt.load_training_state(folder)
        load_model(self._module, ckpt.load_model_state(folder))
        load_moments(self._optimizer, self._module, state["optimizer"])
        self._quarantine.load_state_dict(state["quarantine"])
        if len(state["random"]) == self._world.size:
            set_random_state(state["random"][self._world.rank], self._world.device)
        self._window.restore(state["windows"], self._world)
        self._skips.load_state_dict(state["skips"])
        logger.info("resuming from %s", folder.name)
        manifest = peek_manifest(folder)
        return manifest.step, manifest.figures if manifest.measured_on == measured_on else {}

    def _newest(self) -> Path | None:
        """The newest checkpoint that is whole, for all processes as the main one finds it."""
        folder = ckpt.newest_checkpoint(self._run) if self._world.main else None
        if self._world.main:
            ckpt.drop_checkpoints_after(self._run, folder)
            prune_checkpoints(self._run, self._retention)  # as after a save that was cut short
        found: Path | None = self._world.gather(folder)[0]
        return found


def diverged(what: str, *, step: int) -> str:
    """What to do about a run that diverged."""
    return (
        f"{what} at step {step}; start a new run, or go on by --allow-changes, with a lower "
        "optim.base_lr, a longer optim.warmup_epochs or optim.clip_grad"
    )


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of PyTorch's generators; data has its own, derived from (seed, epoch, index)."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Puts PyTorch's generators where they were."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
