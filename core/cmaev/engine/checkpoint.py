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

from cmaev_spec.files import sync_directory
from cmaev_spec.rundir import RunDir, read_manifest, write_manifest

logger = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
STATE_FILE = "state/training.pt"


def save_checkpoint(
    run: RunDir,
    *,
    step: int,
    epoch: float,
    spec_hash: str,
    model: dict[str, Tensor],
    state: dict[str, Any],
) -> Path:
    """Writes one complete checkpoint and returns its folder."""
    run.checkpoints.mkdir(exist_ok=True)
    final = run.checkpoints / f"step-{step:08d}"
    temporary = run.checkpoints / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "state").mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in model.items()}, temporary / MODEL_FILE)
    torch.save(state, temporary / STATE_FILE)
    write_manifest(temporary, step=step, epoch=epoch, spec_hash=spec_hash)
    if final.exists():  # a damaged one, or the run would not be at this step
        shutil.rmtree(final)
    temporary.rename(final)
    sync_directory(run.checkpoints)
    return final


def newest_checkpoint(run: RunDir) -> Path | None:
    """The newest checkpoint whose files are all as they were written."""
    for folder in reversed(run.complete_checkpoints()):
        try:
            read_manifest(folder)
        except ValueError as error:
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


def prune_checkpoints(run: RunDir, *, keep: int) -> None:
    """Removes all but the `keep` newest complete checkpoints and what an interrupted save left."""
    for folder in run.complete_checkpoints()[:-keep]:
        (folder / "manifest.json").unlink()
        shutil.rmtree(folder)
    for folder in run.checkpoints.glob(".step-*.tmp"):
        shutil.rmtree(folder)
