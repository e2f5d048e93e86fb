"""Checkpoints that survive kill -9: written under a temporary name, hashed, then renamed.

`model.safetensors` holds parameters and buffers, `state/training.pt` everything else a resumed run
needs to go on as if it had never stopped.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cmaev_spec import faults
from cmaev_spec.checkpoint import read_manifest, write_manifest
from cmaev_spec.exits import SaveError
from cmaev_spec.files import sync_directory
from cmaev_spec.rundir import RunDir

logger = logging.getLogger(__name__)


MODEL_FILE = "model.safetensors"
STATE_FILE = "state/training.pt"


def checkpoint_folder(run: RunDir, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return run.checkpoints / f"step-{step:08d}"


def save_checkpoint(
    run: RunDir,
    *,
    step: int,
    epoch: float,
    spec_hash: str,
    model: dict[str, Tensor],
    state: dict[str, Any],
) -> Path:
    """Writes one complete checkpoint and returns its folder.

    Raises:
        SaveError: if it cannot be written; nothing of it is left, and the others are as they were.
    """
    final = checkpoint_folder(run, step)
    temporary = run.checkpoints / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / "state").mkdir(parents=True)
        faults.reach("checkpoint:begin")
        save_file(
            {name: value.contiguous() for name, value in model.items()}, temporary / MODEL_FILE
        )
        (temporary / MODEL_FILE).chmod(0o644)  # safetensors lets nobody else read it
        faults.reach("checkpoint:model")
        with open(temporary / STATE_FILE, "wb") as file:
            torch.save(state, file)
        faults.reach("checkpoint:state")
        write_manifest(temporary, step=step, epoch=epoch, spec_hash=spec_hash)
        faults.reach("checkpoint:complete")
        if final.exists():  # what an interrupted removal left, or the run would not be here
            shutil.rmtree(final)
        temporary.rename(final)
        faults.reach("checkpoint:renamed")
        sync_directory(run.checkpoints)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise SaveError(_advice(final, error)) from error
    return final


def _advice(folder: Path, error: Exception) -> str:
    # torch.save tells of a position that it did not expect, and of the reason in the context.
    reason = error.__context__ if isinstance(error.__context__, OSError) else error
    return (
        f"{folder.name} cannot be saved: {reason}; make room below {folder.parent} and start the "
        "run again, it goes on from its newest checkpoint (run.keep_checkpoints, run.keep_every "
        "and run.checkpoint_every decide how many there are)"
    )


def newest_checkpoint(run: RunDir) -> Path | None:
    """The newest checkpoint whose files are all as they were written."""
    for folder in reversed(run.complete_checkpoints()):
        try:
            read_manifest(folder)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("passing over a checkpoint: %s", error)
        else:
            return folder
    return None


def drop_checkpoints_after(run: RunDir, folder: Path | None) -> None:
    """Removes checkpoints newer than `folder`, all where it is None: they are damaged.

    Left in place they would count as the newest ones when old checkpoints are pruned.
    """
    for newer in run.complete_checkpoints():
        if folder is None or newer.name > folder.name:
            logger.warning("removing the damaged checkpoint %s", newer.name)
            shutil.rmtree(newer)


def load_model_state(folder: Path, *, device: str = "cpu") -> dict[str, Tensor]:
    """Parameters and buffers of a checkpoint."""
    return dict(load_file(folder / MODEL_FILE, device=device))


def load_training_state(folder: Path) -> dict[str, Any]:
    """Optimiser, random states and position of a checkpoint; tensors and plain values only."""
    state: dict[str, Any] = torch.load(folder / STATE_FILE, weights_only=True, map_location="cpu")
    return state
