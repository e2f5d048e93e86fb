"""What the README and the pages of docs say is run: their bash and Python blocks as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from cmaev.cli import build
from cmaev_spec.overrides import JOBS, LEFT_OUT, override_fields
from cmaev_spec.probe import AttentiveSpec, KnnSpec, LinearSpec

PROBES = {"knn": KnnSpec, "linear": LinearSpec, "attentive": AttentiveSpec}

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


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
    answers = re.findall(r"^ *\d+\.\d+%  (\w+)$", result.stdout, flags=re.MULTILINE)
    assert sorted(answers) == ["down", "left", "right", "up"]
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


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("page", "count"),
    [
        ("python", 3),
        pytest.param("python", None, marks=pytest.mark.slow),
        pytest.param("training", None, marks=pytest.mark.slow),
    ],
)
def test_a_page_runs_from_top_to_bottom(page, count, tmp_path):
    """Each block in a process of its own, or the first `count` blocks."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    scripts = re.findall(r"^```(bash|python)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for number, (language, script) in enumerate(scripts[:count]):
        file = tmp_path / f"block{number}"
        file.write_text(script)
        command = ["bash", "-euo", "pipefail"] if language == "bash" else [sys.executable]
        result = subprocess.run(
            [*command, str(file)],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, script + result.stdout + result.stderr
        for line in re.findall(r"^ *print\(.*\)  # prints (.*)$", script, flags=re.MULTILINE):
            assert line in result.stdout.splitlines()


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.stem)
def test_every_field_that_a_page_names_exists(page):
    known = {path for kind in JOBS for path in override_fields(kind).values()} | LEFT_OUT
    known |= {f"{path.rpartition('.')[0]}" for path in known}
    sections = "data|optim|model|objective|resources|run|knn|linear|attentive"
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(rf"`((?:{sections})\.[a-z_.]+)", text))
    inner = {name for name in named if name.startswith(("knn.", "linear.", "attentive."))}
    for name in inner:
        probe, _, field = name.partition(".")
        assert field in PROBES[probe].model_fields, name
    assert named - inner - known == set()


def commands():
    """Every `cmaev …` of the README's other blocks, without its arguments."""
    plain = re.findall(r"^```\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in plain for line in block.splitlines()]
    found = [re.match(r"cmaev ((?:[a-z0-9]+ ?)+)", line) for line in lines]
    return sorted({match.group(1).strip() for match in found if match})


@pytest.mark.parametrize("command", commands())
def test_every_command_exists(command):
    first, *rest = command.split()
    commands = get_command(build()).commands
    assert first in commands
    if hasattr(commands[first], "commands"):  # a group: what follows is a command of it
        assert rest
        assert rest[0] in commands[first].commands


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
