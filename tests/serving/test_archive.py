"""Archives: the same bytes for the same model, and nothing but ours is accepted."""

import io
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cmaev_serving.archive import (
    HANDLER_MEMBER,
    HANDLER_SOURCE,
    MANIFEST_MEMBER,
    MODEL_MEMBER,
    build_archive,
    extract_model,
    verify_archive,
)
from cmaev_serving.export import ExportResult
from cmaev_serving.metadata import ModelError

LIMIT = 100 << 20
Change = Callable[[dict[str, bytes]], dict[str, bytes]]


def rewrite(source: Path, target: Path, change: Change, *, compress: bool = False) -> Path:
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    mode = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", mode) as archive:
        for name, data in change(members).items():
            archive.writestr(name, data)
    return target


def test_an_archive_of_ours_is_accepted_and_holds_the_model(
    exported: ExportResult, tmp_path: Path
) -> None:
    assert exported.archive is not None
    verify_archive(exported.archive, max_bytes=LIMIT)
    extract_model(exported.archive, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == exported.onnx.read_bytes()


def test_the_same_model_gives_the_same_bytes(exported: ExportResult, tmp_path: Path) -> None:
    assert exported.archive is not None
    build_archive(exported.onnx, tmp_path / "again.mar", name="shapes")
    assert (tmp_path / "again.mar").read_bytes() == exported.archive.read_bytes()


def _manifest(members: dict[str, bytes], **changes: str) -> dict[str, bytes]:
    manifest = json.loads(members[MANIFEST_MEMBER])
    manifest["model"] |= changes
    return members | {MANIFEST_MEMBER: json.dumps(manifest).encode()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m | {HANDLER_MEMBER: b"import os\n"}, "is not the handler of cmaev"),
        (lambda m: m | {HANDLER_MEMBER: HANDLER_SOURCE + b"\n"}, "is not the handler of cmaev"),
        (lambda m: m | {"extra.py": b""}, "must hold exactly"),
        (lambda m: m | {"../escape.py": b""}, "must hold exactly"),
        (lambda m: m | {"/etc/escape": b""}, "must hold exactly"),
        (lambda m: {k: v for k, v in m.items() if k != MODEL_MEMBER}, "must hold exactly"),
        (lambda m: m | {HANDLER_MEMBER: b"#" * 20_000}, "larger than 16384 bytes"),
        (lambda m: _manifest(m, handler="os:system"), "is not one that cmaev writes"),
        (lambda m: _manifest(m, requirementsFile="r.txt"), "is not one that cmaev writes"),
        (lambda m: m | {MANIFEST_MEMBER: b"[]"}, "is not a manifest"),
        (lambda m: m | {MANIFEST_MEMBER: b"\xff"}, "is not a manifest"),
    ],
)
def test_whatever_differs_is_refused(
    exported: ExportResult, tmp_path: Path, change: Change, reason: str
) -> None:
    assert exported.archive is not None
    forged = rewrite(exported.archive, tmp_path / "forged.mar", change)
    with pytest.raises(ModelError, match=reason):
        verify_archive(forged, max_bytes=LIMIT)


def test_compressed_members_are_refused(exported: ExportResult, tmp_path: Path) -> None:
    assert exported.archive is not None
    bomb = rewrite(
        exported.archive,
        tmp_path / "bomb.mar",
        lambda members: members | {MODEL_MEMBER: bytes(10 << 20)},
        compress=True,
    )
    with pytest.raises(ModelError, match="compressed"):
        verify_archive(bomb, max_bytes=LIMIT)


def test_a_member_that_stands_twice_is_refused(exported: ExportResult, tmp_path: Path) -> None:
    assert exported.archive is not None
    forged = tmp_path / "twice.mar"
    forged.write_bytes(exported.archive.read_bytes())
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(forged, "a") as archive,
    ):
        archive.writestr(HANDLER_MEMBER, b"import os\n")
    with pytest.raises(ModelError, match="must hold exactly"):
        verify_archive(forged, max_bytes=LIMIT)


def test_a_link_is_refused(exported: ExportResult, tmp_path: Path) -> None:
    assert exported.archive is not None
    forged = tmp_path / "link.mar"
    with zipfile.ZipFile(exported.archive) as source, zipfile.ZipFile(forged, "w") as archive:
        for entry in source.infolist():
            if entry.filename == MODEL_MEMBER:
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, source.read(entry.filename))
    with pytest.raises(ModelError, match="not a regular file"):
        verify_archive(forged, max_bytes=LIMIT)


def test_what_is_no_zip_or_too_large_is_refused(exported: ExportResult, tmp_path: Path) -> None:
    assert exported.archive is not None
    with pytest.raises(ModelError, match="larger than the limit of 1000 bytes"):
        verify_archive(exported.archive, max_bytes=1000)
    cut = tmp_path / "cut.mar"
    cut.write_bytes(exported.archive.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"not a \.mar file"):
        verify_archive(cut, max_bytes=LIMIT)
    cut.write_bytes(io.BytesIO().getvalue())
    with pytest.raises(ModelError, match=r"not a \.mar file"):
        verify_archive(cut, max_bytes=LIMIT)
