"""Specs to render, the semantic rules, and the schema validator."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cmaev_spec.job import JobSpec, parse_job
from cmaev_spec.manifest import Placement

VERSIONS = ("1.31", "1.34", "1.37")


@pytest.fixture(scope="session")
def rules() -> ModuleType:
    spec = importlib.util.spec_from_file_location("k8s_rules", Path(__file__).with_name("rules.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_job() -> Callable[..., JobSpec]:
    """A nano pretraining job with the given resources."""

    def make(**resources: Any) -> JobSpec:
        return parse_job(
            {
                "kind": "pretrain",
                "name": "nano: a label, `quoted` and ünusual",
                "resources": resources,
                "data": {"index": "/data/train.csv", "clip": {"frames": 8, "size": 32}},
                "optim": {"base_lr": 1e-3, "batch_size": 480, "epochs": 2},
            }
        )

    return make


@pytest.fixture
def placement() -> Placement:
    return Placement(
        name="nano", namespace="team-a", image="registry.example/trainer:1.2", runs_claim="runs"
    )


@pytest.fixture(scope="session")
def validate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """Fails unless every object of a YAML text passes the strict schemas of three versions."""

    def check(text: str) -> None:
        # A file: the second version would find a pipe empty, and pass it.
        file = tmp_path_factory.mktemp("manifest") / "objects.yaml"
        file.write_text(text, encoding="utf-8")
        versions = [part for version in VERSIONS for part in ("-k", version)]
        result = subprocess.run(
            [sys.executable, "-m", "kubernetes_validate", "--strict", *versions, str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        output = result.stdout + result.stderr
        assert result.returncode == 0, output
        # A kind without a schema only warns.
        assert "WARN" not in output, output
        assert output.count("passed") == text.count("\nkind: ") * len(VERSIONS), output

    return check
