"""Which checkpoints of a run stay: the latest, the best, and one in every so many epochs.

What decides stands in their manifests, so a run that was killed keeps what it would have kept.
"""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cmaev_spec import faults
from cmaev_spec.checkpoint import Manifest, peek_manifest
from cmaev_spec.rundir import RunDir

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """Checkpoints that are kept for any of these reasons."""

    latest: int
    """So many of the newest."""
    every: int | None = None
    """Those at multiples of so many epochs."""
    best_by: str | None = None
    """The one with the highest figure of this name."""

    def kept(self, manifests: Mapping[Path, Manifest]) -> set[Path]:
        """The checkpoints that stay, of complete ones, oldest first."""
        kept = set(list(manifests)[-self.latest :])
        if self.every is not None:
            kept |= {path for path, found in manifests.items() if found.epoch % self.every == 0}
        if self.best_by is not None and (top := best(manifests, by=self.best_by)) is not None:
            kept.add(top)
        return kept


def best(manifests: Mapping[Path, Manifest], *, by: str) -> Path | None:
    """The checkpoint with the highest figure, of equals the newest; None if none has any.

    Only those compete that were measured on what the newest of them was measured on.
    """
    measured = [path for path, found in manifests.items() if by in found.figures]
    if measured:
        on = manifests[measured[-1]].measured_on
        measured = [path for path in measured if manifests[path].measured_on == on]
    return max(reversed(measured), key=lambda path: manifests[path].figures[by], default=None)


def read_manifests(run: RunDir) -> dict[Path, Manifest]:
    """Manifests of complete checkpoints, oldest first; damaged ones are left out."""
    manifests = {}
    for folder in run.complete_checkpoints():
        try:
            manifests[folder] = peek_manifest(folder)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("passing over a checkpoint: %s", error)
    return manifests


def prune_checkpoints(run: RunDir, retention: Retention) -> None:
    """Removes all other checkpoints, and what interrupted saves and removals left."""
    kept = retention.kept(read_manifests(run))
    for folder in run.checkpoint_folders():
        if folder not in kept:
            (folder / "manifest.json").unlink(missing_ok=True)
            faults.reach("checkpoint:prune")
            shutil.rmtree(folder)
    for folder in run.checkpoints.glob(".step-*.tmp"):
        shutil.rmtree(folder)
