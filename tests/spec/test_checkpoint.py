"""A checkpoint is complete with its manifest, and damage to it is told."""

import shutil
from pathlib import Path

import pytest

from cmaev_spec.checkpoint import read_manifest, write_manifest
from cmaev_spec.job import JobSpec
from cmaev_spec.rundir import RunDir
from cmaev_spec.wire import content_hash


def checkpoint(run: RunDir, step: int) -> Path:
    folder = run.checkpoints / f"step-{step:08d}"
    (folder / "state").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * step)
    (folder / "state" / "optimiser.bin").write_bytes(b"moments")
    return folder


def test_a_checkpoint_is_complete_with_its_manifest(tmp_path: Path, job: JobSpec) -> None:
    run = RunDir(tmp_path)
    folders = [checkpoint(run, step) for step in (20, 3, 100)]
    for folder, step in zip(folders[:2], (20, 3), strict=True):
        written = write_manifest(folder, step=step, epoch=1.5, spec_hash=content_hash(job))
        assert read_manifest(folder) == written
        assert set(written.files) == {"model.safetensors", "state/optimiser.bin"}
    assert run.complete_checkpoints() == [folders[1], folders[0]]


def test_what_people_put_beside_checkpoints_is_none(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    folder = checkpoint(run, 3)
    write_manifest(folder, step=3, epoch=1.0, spec_hash="0")
    shutil.copytree(folder, run.checkpoints / "step-00000003-copy")
    (run.checkpoints / "step-00000004").touch()
    assert run.complete_checkpoints() == run.checkpoint_folders() == [folder]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "state/optimiser.bin is missing"),
        (lambda path: path.write_bytes(b"moment"), "state/optimiser.bin is damaged"),
        (lambda path: path.write_bytes(b"momentS"), "state/optimiser.bin is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_told(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    folder = checkpoint(RunDir(tmp_path), 1)
    write_manifest(folder, step=1, epoch=0.1, spec_hash="0")
    damage(folder / "state" / "optimiser.bin")
    with pytest.raises(ValueError, match=message):
        read_manifest(folder)
