"""Files that survive kill -9, at whatever instant it comes."""

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cmaev_spec.files import create_atomic, sha256_file, write_atomic

OLD = b"old" * 1000
NEW = b"new" * 2000

# Kills itself the moment the named function is called, as kill -9 could.
DIE_AT = """
import os, signal, sys
from cmaev_spec import files
target, writer, point = sys.argv[1:]
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(files if hasattr(files, point) else os, point, die)
getattr(files, writer)(target, b"new" * 2000)
"""


@pytest.mark.parametrize("point", ["fchmod", "fsync", "replace", "sync_directory"])
def test_a_kill_leaves_the_old_content_or_the_new(tmp_path: Path, point: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    result = subprocess.run(
        [sys.executable, "-c", DIE_AT, path, "write_atomic", point], check=False
    )
    assert result.returncode == -signal.SIGKILL
    assert path.read_bytes() == (NEW if point == "sync_directory" else OLD)


@pytest.mark.parametrize("point", ["fsync", "link", "unlink"])
def test_a_kill_while_creating_leaves_nothing_or_all(tmp_path: Path, point: str) -> None:
    path = tmp_path / "file"
    result = subprocess.run(
        [sys.executable, "-c", DIE_AT, path, "create_atomic", point], check=False
    )
    assert result.returncode == -signal.SIGKILL
    if point == "unlink":
        assert path.read_bytes() == NEW
    else:
        assert not path.exists()


def test_a_kill_at_a_random_instant(tmp_path: Path) -> None:
    """A writer that alternates two contents is killed; a whole one is always there."""
    path = tmp_path / "file"
    contents = [letter * 200_000 for letter in (b"a", b"b")]
    code = (
        "import sys; from cmaev_spec.files import write_atomic\n"
        "write_atomic(sys.argv[1], b'a' * 200_000); print('go', flush=True)\n"
        "while True:\n"
        "    for letter in (b'b', b'a'): write_atomic(sys.argv[1], letter * 200_000)"
    )
    for round_ in range(5):
        child = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
        assert child.stdout is not None
        with child.stdout:
            assert child.stdout.readline() == b"go\n"
            time.sleep(0.003 * round_)
            child.kill()
            child.wait()
        assert path.read_bytes() in contents


def test_mode_and_text(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_atomic(path, "grüße\n", mode=0o600)
    assert path.read_text(encoding="utf-8") == "grüße\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_create_leaves_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    create_atomic(path, OLD)
    with pytest.raises(FileExistsError):
        create_atomic(path, NEW)
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("writer", [write_atomic, create_atomic])
def test_an_error_leaves_no_litter(
    tmp_path: Path, writer: Callable[[Path, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        writer(tmp_path / "file", NEW)
    assert os.listdir(tmp_path) == []


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(NEW)
    assert sha256_file(path) == hashlib.sha256(NEW).hexdigest()
