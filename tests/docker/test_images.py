"""The Dockerfiles: clean by their linter, and alike where they must be."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from cmaev_spec import __version__

ROOT = Path(__file__).parents[2]
NAMES = ("api", "trainer", "serving")
EXTRAS = {"api": "api", "trainer": "train,tensorboard,s3,worker,serve", "serving": "serve"}


def dockerfile(name: str) -> Path:
    return ROOT / "docker" / f"{name}.Dockerfile"


def instructions(name: str, keyword: str) -> list[str]:
    """Arguments of every instruction of one kind, in order, continuation lines joined."""
    text = dockerfile(name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [" ".join(found.split()) for found in re.findall(rf"(?m)^\s*{keyword} (.*)$", text)]


@pytest.mark.parametrize("name", NAMES)
def test_the_linter_is_content(name: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run(
        [hadolint, "--no-color", dockerfile(name)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_process_is_an_ordinary_user(name: str) -> None:
    assert instructions(name, "USER") == ["10001:10001"]
    assert instructions(name, "STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("name", NAMES)
def test_the_base_can_be_pinned(name: str) -> None:
    assert instructions(name, "ARG")[0].startswith("BASE=")
    assert instructions(name, "FROM") == ["${BASE} AS build", "${BASE}"]


@pytest.mark.parametrize("name", NAMES)
def test_the_install_is_the_pinned_one(name: str) -> None:
    (install,) = [line for line in instructions(name, "RUN") if line.startswith("pip install")]
    assert "--constraint constraints.txt" in install
    assert install.endswith(f"'.[{EXTRAS[name]}]'")
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(EXTRAS[name].split(",")) <= pyproject["project"]["optional-dependencies"].keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_command_is_a_module_of_ours(name: str) -> None:
    command = json.loads(instructions(name, "CMD")[-1])
    assert command[:2] == ["python", "-m"]
    assert find_spec(command[2]) is not None


@pytest.mark.parametrize("name", NAMES)
def test_the_labels_tell_the_version(name: str) -> None:
    (labels,) = instructions(name, "LABEL")
    assert f'org.opencontainers.image.version="{__version__}"' in labels
    assert f'org.opencontainers.image.title="cmaev-{name}"' in labels


def test_the_control_plane_installs_no_torch() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    api = [*pyproject["dependencies"], *pyproject["optional-dependencies"]["api"]]
    assert not [item for item in api if re.match(r"torch|timm|numpy|onnx", item)]


def test_only_what_the_wheel_needs_is_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    sent = {rule[1:].rstrip("/") for rule in rules if rule.startswith("!")}
    assert sent == {
        *("pyproject.toml", "constraints.txt", "README.md", "LICENSE"),
        *("core", "trainer", "serving", "api"),
    }
    assert all((ROOT / name).exists() for name in sent)
