"""Fault points kill at the chosen point and turn, and do nothing otherwise."""

import os
import signal
import subprocess
import sys

import pytest

from cmaev_spec import faults
from cmaev_spec.files import write_atomic

PROGRAM = """
import sys
from cmaev_spec import faults
with open(sys.argv[1], "w") as file:
    for number in range(4):
        faults.write(file, f"line {number}\\n", point="metrics:append")
        faults.reach("checkpoint:model")
"""


def run(path, fault):
    variables = {**os.environ, faults.VARIABLE: fault}
    return subprocess.run([sys.executable, "-c", PROGRAM, path], env=variables, check=False)


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        ("metrics:append", "lin"),
        ("metrics:append#2", "line 0\nlin"),
        ("metrics:append#9", "line 0\nline 1\nline 2\nline 3\n"),
        ("events:append", "line 0\nline 1\nline 2\nline 3\n"),
    ],
)
def test_half_is_written_at_the_chosen_turn(tmp_path, fault, left):
    code = run(tmp_path / "file", fault).returncode
    assert (tmp_path / "file").read_text() == left
    assert code == (0 if left.endswith("3\n") else -signal.SIGKILL)


def test_what_was_not_flushed_is_lost_as_by_kill_9(tmp_path):
    assert run(tmp_path / "file", "checkpoint:model#2").returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_text() == ""


def test_every_atomic_file_is_a_point(tmp_path):
    write_atomic(tmp_path / "summary.json", "old")
    program = "import sys; from cmaev_spec.files import write_atomic; write_atomic(*sys.argv[1:])"
    code = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "summary.json", "new"],
        env={**os.environ, faults.VARIABLE: "write:summary.json"},
        check=False,
    ).returncode
    assert code == -signal.SIGKILL
    assert (tmp_path / "summary.json").read_text() == "old"
