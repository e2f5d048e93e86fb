"""The manifest of a checkpoint: written last, it makes the checkpoint complete."""

import os
from pathlib import Path

from pydantic import Field, ValidationError

from cmaev_spec.base import Spec
from cmaev_spec.files import sha256_file, sync_directory, write_atomic


class FileEntry(Spec):
    """Size and hash of a file in a checkpoint."""

    bytes: int
    sha256: str


class Manifest(Spec):
    """What makes a checkpoint complete."""

    schema_version: int = 1
    step: int
    epoch: float
    spec_hash: str
    files: dict[str, FileEntry]
    figures: dict[str, float] = Field({}, description="of the validation videos, once measured")
    measured_on: str = Field("", description="hash of what the figures are of")


def write_manifest(folder: Path, *, step: int, epoch: float, spec_hash: str) -> Manifest:
    """Hashes every file below `folder`, makes them durable and writes the manifest, last."""
    files: dict[str, FileEntry] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            entry = FileEntry(bytes=path.stat().st_size, sha256=sha256_file(path))
            files[path.relative_to(folder).as_posix()] = entry
    for directory in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        sync_directory(directory)
    manifest = Manifest(step=step, epoch=epoch, spec_hash=spec_hash, files=files)
    write_atomic(folder / "manifest.json", manifest.model_dump_json(indent=1))
    return manifest


def peek_manifest(folder: Path) -> Manifest:
    """Reads a checkpoint's manifest; the files that it lists are not looked at.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        return Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    except ValidationError:
        raise ValueError(f"checkpoint {folder.name}: manifest.json is damaged") from None


def add_figures(folder: Path, figures: dict[str, float], *, measured_on: str = "") -> None:
    """Notes in a checkpoint's manifest how good it is, and on what."""
    noted = {"figures": figures, "measured_on": measured_on}
    manifest = peek_manifest(folder).model_copy(update=noted)
    write_atomic(folder / "manifest.json", manifest.model_dump_json(indent=1))


def read_manifest(folder: Path) -> Manifest:
    """Reads a checkpoint's manifest and checks every file against it.

    Raises:
        ValueError: naming the first file that is missing or differs.
    """
    manifest = peek_manifest(folder)
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"checkpoint {folder.name}: {name} is missing")
        if path.stat().st_size != entry.bytes or sha256_file(path) != entry.sha256:
            raise ValueError(f"checkpoint {folder.name}: {name} is damaged")
    return manifest
