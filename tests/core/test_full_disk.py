"""A disk that is full while a checkpoint is written: the old one stays, and is gone on from."""

import shutil
import subprocess
import sys

import pytest
from runs import equal, events, job, losses, run

from cmaev.engine.checkpoint import load_model_state, newest_checkpoint
from cmaev_spec.exits import EXIT_FAILED
from cmaev_spec.rundir import RunDir

# In a mount namespace of its own, whose root the caller is: no rights are needed for it.
SCRIPT = """
mount -t tmpfs -o size="$1" none "$2" || exit 99
"$3" -m cmaev.launch --run-dir "$2/run" --spec "$4"
code=$?
cp -a "$2/run" "$5"
exit $code
"""


def on_a_disk_of(size, *, spec, mount, out):
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"]
    command += [str(size), str(mount), sys.executable, str(spec), str(out)]
    return subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def small_disks():
    """Skips where this machine allows no file systems of one's own."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no file systems of one's own on this machine")


@pytest.mark.slow
@pytest.mark.usefixtures("small_disks", "own_signals")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_full_disk_costs_no_checkpoint(videos, tmp_path, ranks):
    resources = {"threads": 1, "processes_per_node": ranks}
    job_spec = job(
        "pretrain", videos, optim__epochs=4, run__keep_checkpoints=1, resources=resources
    )
    code, whole = run(tmp_path / "whole", job_spec)
    assert code == 0
    spec, mount, out = tmp_path / "spec.json", tmp_path / "mount", tmp_path / "run"
    spec.write_text(job_spec.model_dump_json())
    mount.mkdir()
    bytes_each = sum(path.stat().st_size for path in newest_checkpoint(whole).rglob("*"))
    ended = on_a_disk_of(int(1.6 * bytes_each), spec=spec, mount=mount, out=out)
    assert ended.returncode == EXIT_FAILED, ended.stderr
    assert "No space left on device" in ended.stderr

    folder = RunDir(out)
    told = events(folder)[-1]
    assert (told.type, told.exit_code) == ("outcome", EXIT_FAILED)
    assert told.error.startswith("SaveError: step-00000004 cannot be saved: ")
    assert "make room" in told.error
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000002"]
    assert newest_checkpoint(folder).name == "step-00000002"

    assert run(out, job_spec)[0] == 0
    assert losses(folder) == losses(whole)
    states = [load_model_state(newest_checkpoint(each)) for each in (folder, whole)]
    assert equal(*states)
