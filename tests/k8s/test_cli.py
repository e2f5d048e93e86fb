"""`cmaev k8s render`, as a user runs it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_USAGE

SPEC = """
kind: pretrain
data: {index: /data/train.csv, clip: {frames: 8, stride: 2, size: 32}}
optim: {base_lr: 1.0e-3, batch_size: 32, epochs: 30}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(SPEC)
    return path


def render(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [Path(sys.executable).with_name("cmaev"), "k8s", "render", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_prints_a_manifest(spec: Path, rules: ModuleType, validate: Callable[[str], None]) -> None:
    result = render(spec, "--set", "resources.nodes=2", "--name", "first", "--data-claim", "videos")
    assert result.returncode == 0, result.stderr
    validate(result.stdout)
    objects = list(yaml.safe_load_all(result.stdout))
    claims = {("PersistentVolumeClaim", "cmaev-runs"), ("PersistentVolumeClaim", "videos")}
    assert rules.problems(objects, external=frozenset(claims)) == []
    (job,) = [item for item in objects if item["kind"] == "Job"]
    assert (job["metadata"]["name"], job["spec"]["completions"]) == ("first", 2)


def test_is_a_pure_function_of_the_spec(spec: Path) -> None:
    assert render(spec).stdout == render(spec).stdout != ""


def test_overrides_may_stand_without_the_option(spec: Path) -> None:
    expected = render(spec, "--set", "resources.nodes=2", "--set", "optim.epochs=5").stdout
    assert render(spec, "resources.nodes=2", "optim.epochs=5").stdout == expected != ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--name", "Not_A_Name"], EXIT_BAD_INPUT, "error: name: 'Not_A_Name' must be lower-case"),
        (["--set", "optim.batch=3"], EXIT_BAD_INPUT, "error: optim.batch: unknown field"),
        (["--set", "resources.nodes=none"], EXIT_BAD_INPUT, "error: resources.nodes: "),
        (["--nmae", "x"], EXIT_USAGE, "--nmae"),
    ],
)
def test_bad_input_names_the_field(
    arguments: list[str], code: int, message: str, spec: Path
) -> None:
    result = render(spec, *arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    result = render(tmp_path / "none.yaml")
    assert result.returncode == EXIT_BAD_INPUT
    assert "cannot read" in result.stderr
