"""What the README says is run: its bash block and its Python block as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cmaev.cli import build

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(300)
def test_the_walk_without_services_works(tmp_path):
    (script,) = blocks("bash")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"(left|right|up|down)\s", result.stdout.splitlines()[-1] + result.stdout)
    assert (tmp_path / "model" / "model.onnx").is_file()


def test_the_python_example_runs(tmp_path):
    (script,) = blocks("python")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "torch.Size([4, 8])"


def commands():
    """Every `cmaev …` of the README's other blocks, without its arguments."""
    plain = re.findall(r"^```\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in plain for line in block.splitlines()]
    found = [re.match(r"cmaev ((?:[a-z0-9]+ ?)+)", line) for line in lines]
    return sorted({match.group(1).strip() for match in found if match})


@pytest.mark.parametrize("command", commands())
def test_every_command_exists(command):
    words = [word for word in command.split() if "." not in word][:2]
    result = CliRunner().invoke(build(), [*words, "--help"])
    if result.exit_code != 0:
        result = CliRunner().invoke(build(), [words[0], "--help"])
    assert result.exit_code == 0, result.output


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
