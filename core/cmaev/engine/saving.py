"""Where a run is: what a checkpoint of it holds, and how a run is put back there."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from cmaev.data.quarantine import Quarantine
from cmaev.engine import checkpoint as ckpt
from cmaev.engine.distributed import World
from cmaev.engine.events import EventLog
from cmaev.engine.optim import load_moments, moments
from cmaev.engine.update import SkippedSteps
from cmaev.engine.window import Window
from cmaev_spec.resources import RunControlSpec
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

    def save(self, step: int, *, epoch: float) -> None:
        """Writes a checkpoint; every process has to call it.

        Raises:
            FloatingPointError: if the weights are not finite.
        """
        self._require_finite_weights(step)
        world = self._world
        random_states = world.gather(random_state(world.device))
        windows = world.gather(self._window.state_dict())
        if world.main:
            folder = ckpt.save_checkpoint(
                self._run,
                step=step,
                epoch=epoch,
                spec_hash=self._spec_hash,
                model=self._module.state_dict(),
                state={
                    "optimizer": moments(self._optimizer, self._module),
                    "random": random_states,
                    "windows": windows,
                    "skips": self._skips.state_dict(),
                    "quarantine": self._quarantine.state_dict(),
                },
            )
            ckpt.prune_checkpoints(self._run, keep=self._control.keep_checkpoints)
            self._events.artifact("checkpoint", folder / ckpt.MODEL_FILE)
        world.barrier()

    def _require_finite_weights(self, step: int) -> None:
        """A checkpoint of a diverged run would only push the good ones out."""
        finite = torch.stack([p.isfinite().all() for p in self._module.parameters()]).all()
        if not finite:
            raise FloatingPointError(diverged("weights are not finite", step=step))

    def restore(self) -> int:
        """Puts the run back to its newest checkpoint.

        Returns:
            The step that it goes on from; 0 where there is none.
        """
        folder = ckpt.newest_checkpoint(self._run)
        self._world.barrier()
        if self._world.main:
            ckpt.drop_checkpoints_after(self._run, folder)
        if folder is None:
            self._quarantine.clear()
            return 0
        state: dict[str, Any] = ckpt.load_training_state(folder)
        self._module.load_state_dict(ckpt.load_model_state(folder))
        load_moments(self._optimizer, self._module, state["optimizer"])
        self._quarantine.load_state_dict(state["quarantine"])
        if len(state["random"]) == self._world.size:
            set_random_state(state["random"][self._world.rank], self._world.device)
        self._window.restore(state["windows"], self._world)
        self._skips.load_state_dict(state["skips"])
        logger.info("resuming from %s", folder.name)
        return int(folder.name.removeprefix("step-"))


def diverged(what: str, *, step: int) -> str:
    """What to do about a run that diverged."""
    return (
        f"{what} at step {step}; start a new run with a lower optim.base_lr, "
        "a longer optim.warmup_epochs or optim.clip_grad"
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
