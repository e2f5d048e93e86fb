"""A disk that is full while a checkpoint is written: the old one stays, and is gone on from."""

import re
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


FILLED = """
mount -t tmpfs -o size=64k none "$1" || exit 99
head -c 100000 /dev/zero > "$1/fill" 2>/dev/null
shift
exec "$@"
"""


def on_a_full_disk(mount, *command):
    mount.mkdir()
    line = ["unshare", "--map-root-user", "--mount", "sh", "-c", FILLED, "sh", str(mount)]
    return subprocess.run([*line, *command], check=False, capture_output=True, text=True)


@pytest.mark.usefixtures("small_disks")
def test_a_run_directory_on_a_full_disk_is_a_message_with_its_path(videos, tmp_path):
    spec, mount = tmp_path / "spec.json", tmp_path / "mount"
    spec.write_text(job("pretrain", videos).model_dump_json())
    options = [str(spec), "--run-dir", str(mount / "run")]
    ended = on_a_full_disk(mount, sys.executable, "-m", "cmaev", "train", *options)
    assert ended.returncode == EXIT_FAILED
    assert re.fullmatch(
        rf"error: {mount}/run\S*: No space left on device; make room, then run it again\n",
        ended.stderr,
    )


CALL = """
import sys, cmaev
try:
    cmaev.pretrain(sys.argv[1], out=sys.argv[2])
except cmaev.RunFailed as error:
    print(error)
"""


@pytest.mark.usefixtures("small_disks")
def test_from_python_a_full_disk_is_a_failed_run(videos, tmp_path):
    mount = tmp_path / "mount"
    arguments = [str(videos / "train.csv"), str(mount / "run")]
    ended = on_a_full_disk(mount, sys.executable, "-c", CALL, *arguments)
    assert ended.returncode == 0, ended.stderr
    assert re.match(rf"{mount}/run\S*: No space left on device", ended.stdout)


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
    assert "Traceback" not in ended.stderr

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
