"""TorchServe archives: built to be the same for the same model, and checked before they are served.

A `.mar` is a zip that may hold any Python code, and TorchServe runs it. So ours hold exactly three
members, the only code among them is a shim that imports `cmaev_serving.handler`, and an archive
that differs from that in any way is refused.
"""

import json
import os
import stat
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from cmaev_serving.metadata import ModelError
from cmaev_spec.files import sync_directory

MODEL_MEMBER = "model.onnx"
HANDLER_MEMBER = "cmaev_handler.py"
MANIFEST_MEMBER = "MAR-INF/MANIFEST.json"
MEMBERS = (MANIFEST_MEMBER, HANDLER_MEMBER, MODEL_MEMBER)

HANDLER_SOURCE = b"""from cmaev_serving.handler import handle

__all__ = ["handle"]
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MANIFEST_LIMIT = 16 * 1024
_CHUNK = 1 << 20


def build_archive(onnx: Path, target: Path, *, name: str, version: str = "1.0") -> None:
    """Writes the archive of an exported model; the same input gives the same bytes.

    Args:
        onnx: the exported model.
        target: the `.mar` to write, replaced in one step.
        name: model name, as in the specification of an export job.
        version: model version in the manifest.
    """
    text = json.dumps(_manifest(name, version), indent=2, sort_keys=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(_entry(MANIFEST_MEMBER), text)
                archive.writestr(_entry(HANDLER_MEMBER), HANDLER_SOURCE)
                with (
                    open(onnx, "rb") as source,
                    archive.open(_entry(MODEL_MEMBER), "w", force_zip64=True) as member,
                ):
                    _copy(source, member)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def verify_archive(path: Path, *, max_bytes: int) -> None:
    """Checks that an archive is exactly what `build_archive` writes, its model apart.

    Raises:
        ModelError: naming what differs.
    """
    if path.stat().st_size > max_bytes:
        raise ModelError(f"archive: larger than the limit of {max_bytes} bytes")
    try:
        with zipfile.ZipFile(path) as archive:
            _verify_members(archive, max_bytes)
            if archive.read(HANDLER_MEMBER) != HANDLER_SOURCE:
                raise ModelError(f"archive: {HANDLER_MEMBER} is not the handler of cmaev")
            _verify_manifest(archive.read(MANIFEST_MEMBER))
    except zipfile.BadZipFile:
        raise ModelError("archive: not a .mar file (a zip); send what the export wrote") from None


def extract_model(path: Path, target: Path) -> None:
    """Copies the ONNX file out of a verified archive; the name in the archive is never used."""
    with zipfile.ZipFile(path) as archive, archive.open(MODEL_MEMBER) as source:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                _copy(source, file)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _manifest(name: str, version: str) -> dict[str, object]:
    return {
        "createdOn": "01/01/1980 00:00:00",
        "runtime": "python",
        "archiverVersion": "0.12.0",
        "model": {
            "modelName": name,
            "modelVersion": version,
            "serializedFile": MODEL_MEMBER,
            "handler": HANDLER_MEMBER,
        },
    }


def _verify_manifest(raw: bytes) -> None:
    """Nothing but the model's name and version may differ from what we write."""
    try:
        manifest = json.loads(raw)
        model = manifest["model"]
        expected = _manifest(str(model["modelName"]), str(model["modelVersion"]))
    except (ValueError, TypeError, KeyError):
        raise ModelError(f"archive: {MANIFEST_MEMBER} is not a manifest") from None
    if manifest != expected:
        raise ModelError(f"archive: {MANIFEST_MEMBER} is not one that cmaev writes")


def _verify_members(archive: zipfile.ZipFile, max_bytes: int) -> None:
    entries = archive.infolist()
    names = sorted(entry.filename for entry in entries)
    if names != sorted(MEMBERS):
        raise ModelError(f"archive: must hold exactly {', '.join(MEMBERS)}, not {', '.join(names)}")
    for entry in entries:
        mode = entry.external_attr >> 16
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ModelError(
                f"archive: {entry.filename} is compressed; ours are stored as they are"
            )
        if entry.flag_bits & 0x1:
            raise ModelError(f"archive: {entry.filename} is encrypted")
        if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
            raise ModelError(f"archive: {entry.filename} is not a regular file")
        limit = max_bytes if entry.filename == MODEL_MEMBER else _MANIFEST_LIMIT
        if entry.file_size > limit:
            raise ModelError(f"archive: {entry.filename} is larger than {limit} bytes")


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    while chunk := source.read(_CHUNK):
        target.write(chunk)
