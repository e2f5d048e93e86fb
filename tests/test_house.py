"""Rules of the house that linters do not know."""

import ast
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SOURCES = ("core", "trainer", "serving", "api")
MOST_LINES = 350
HELP_TIMES = 4  # it is 1.8; torch would make it 20
# Folders that belong to one machine, and hosts that packages come from.
MACHINE_PATHS = re.compile(
    r"/(?:work|home/\w+|root|Users/\w+)/(?:main|shared|\.)|/tmp/pytest-"
    r"|pypi\.org|pythonhosted\.org|npmjs\.org|deb\.debian\.org"
)


def tracked(*suffixes: str) -> Iterator[Path]:
    """Files of the project: what git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(command, cwd=ROOT).decode().split("\0")
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file() and (not suffixes or path.suffix in suffixes):
            yield path


def modules() -> list[Path]:
    return [path for path in tracked(".py") if path.relative_to(ROOT).parts[0] in SOURCES]


def test_the_list_of_files_is_not_empty() -> None:
    assert ROOT / "core" / "cmaev_spec" / "job.py" in modules()


def test_every_module_with_code_says_what_it_is() -> None:
    silent = []
    for path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and ast.get_docstring(tree) is None:
            silent.append(str(path.relative_to(ROOT)))
    assert silent == []


def test_no_file_is_too_long() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked(".py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}


def test_no_path_of_a_machine_is_written_down() -> None:
    found = []
    for path in tracked():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in MACHINE_PATHS.finditer(text)]
        if str(ROOT) in text:
            found.append(f"{path.relative_to(ROOT)}: {ROOT}")
    assert found == []


def test_source_roots_are_no_packages() -> None:
    assert [root for root in SOURCES if (ROOT / root / "__init__.py").exists()] == []


@pytest.mark.parametrize(
    "module",
    [
        "cmaev_spec.job",
        "cmaev.cli",
        "cmaev.launch",
        "cmaev_trainer.app",
        "cmaev_serving.agent",
        "cmaev_serving.predictor",
        "cmaev_api.app",
    ],
)
def test_entry_modules_leave_torch_alone(module: str) -> None:
    code = f"import {module}, sys; print(sorted({{'torch', 'torchvision'}} & sys.modules.keys()))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_names_of_the_package_are_loaded_when_they_are_asked_for() -> None:
    code = (
        "import cmaev, sys\n"
        "before = len(sys.modules)\n"
        "assert set(cmaev.__all__) <= set(dir(cmaev))\n"
        "from cmaev import BadInput, Run, RunFailed, RunStopped, finetune, list_presets, pretrain\n"
        "assert len(sys.modules) > before\n"
        "assert 'torch' not in sys.modules\n"
        "for name in cmaev.__all__:\n"
        "    getattr(cmaev, name)\n"
        "assert not hasattr(cmaev, 'pretrian')\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_control_plane_leaves_the_other_parts_alone() -> None:
    code = (
        "import cmaev_api.app, sys\n"
        "others = {'cmaev', 'cmaev_trainer', 'cmaev_serving', 'numpy', 'av', 'onnxruntime'}\n"
        "print(sorted(others & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_help_answers_at_once() -> None:
    """It takes little more than the library of commands alone, on whatever machine."""
    alone, _ = processor_seconds([sys.executable, "-c", "import typer"])
    seconds, told = processor_seconds([Path(sys.executable).with_name("cmaev"), "--help"])
    assert "train" in told
    assert seconds < HELP_TIMES * alone


def processor_seconds(command: list[str | Path]) -> tuple[float, str]:
    """The best of five, and what was printed."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert result.returncode == 0, result.stderr
    return min(seconds), result.stdout


def test_pre_commit_runs_what_make_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    assert recipe is not None
    wanted = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == wanted
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert {hook["language"] for hook in hooks} == {"system"}


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert phony is not None
    explained = re.findall(r"^([a-z-]+):.*## \S", makefile, flags=re.MULTILINE)
    assert sorted(phony[1].split()) == sorted(explained)


def test_the_pins_cover_what_is_asked_for() -> None:
    """Every direct dependency stands in constraints.txt, or two installs could differ."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {normal(line.partition("==")[0]) for line in text.splitlines() if "==" in line}
    # The variant for other platforms cannot be installed beside the pinned one.
    names = {normal(item) for item in asked} - {"cmaev", "onnxruntime"}
    assert names - pinned == set()


def normal(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()
