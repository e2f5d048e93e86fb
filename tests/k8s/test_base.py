"""k8s/base: it builds, fits the schemas, hangs together, and speaks of settings that exist."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from cmaev_spec.job import load_job
from cmaev_spec.manifest import Placement, render, to_yaml

ROOT = Path(__file__).parents[2]
BASE = ROOT / "k8s" / "base"
README = ROOT / "k8s" / "README.md"
SECRET = "cmaev-secrets"
EXTERNAL = frozenset({("Secret", SECRET)})
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")


@pytest.fixture(scope="module")
def text() -> str:
    """What `kubectl apply -k k8s/base` would send."""
    return subprocess.check_output(["kubectl", "kustomize", str(BASE)], text=True)


@pytest.fixture(scope="module")
def objects(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


def containers(objects: list[dict[str, Any]], rules: ModuleType) -> list[dict[str, Any]]:
    return [
        container
        for item in objects
        if item["kind"] in rules.WORKLOADS
        for container in rules.containers(item)
    ]


@needs_kubectl
def test_every_object_fits_the_schemas(text: str, validate: Callable[[str], None]) -> None:
    validate(text)


@needs_kubectl
def test_the_set_hangs_together(objects: list[dict[str, Any]], rules: ModuleType) -> None:
    assert rules.problems(objects, external=EXTERNAL) == []


@needs_kubectl
def test_what_must_be_there(objects: list[dict[str, Any]]) -> None:
    there = {(item["kind"], item["metadata"]["name"]) for item in objects}
    assert {
        ("Namespace", "cmaev"),
        ("Deployment", "api"),
        ("Deployment", "worker"),
        ("Deployment", "serving"),
        ("StatefulSet", "redis"),
        ("Job", "nano-pretrain"),
        ("NetworkPolicy", "default-deny"),
        ("PersistentVolumeClaim", "cmaev-runs"),
    } <= there
    (namespace,) = [item for item in objects if item["kind"] == "Namespace"]
    enforced = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"


@needs_kubectl
def test_nothing_is_reached_from_outside_by_default(objects: list[dict[str, Any]]) -> None:
    services = [item for item in objects if item["kind"] == "Service"]
    assert {item["spec"].get("type", "ClusterIP") for item in services} == {"ClusterIP"}
    (deny,) = [item for item in objects if item["metadata"]["name"] == "default-deny"]
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ours = {item["metadata"]["namespace"] for item in objects if item["kind"] != "Namespace"}
    assert ours == {"cmaev"}


def settings_of(command: list[str]) -> type[BaseSettings] | None:
    """The settings class of the program that a container runs."""
    from cmaev_api.settings import Settings
    from cmaev_serving.agent_settings import AgentSettings
    from cmaev_trainer.settings import WorkerSettings

    programs: dict[str, type[BaseSettings]] = {
        "cmaev_api": Settings,
        "cmaev_trainer": WorkerSettings,
        "cmaev_serving.agent": AgentSettings,
    }
    return programs.get(command[2]) if command[:2] == ["python", "-m"] else None


@needs_kubectl
def test_the_programs_accept_their_settings(
    objects: list[dict[str, Any]], rules: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every variable is a field of the program's settings, and every value is accepted."""
    tried = []
    for container in containers(objects, rules):
        settings = settings_of(container["command"])
        if settings is None:
            continue
        prefix = settings.model_config["env_prefix"]
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("CMAEV_")]:
                patch.delenv(name)
            for variable in container["env"]:
                name = variable["name"]
                if name.startswith("CMAEV_"):
                    assert name.startswith(prefix)
                    assert name.removeprefix(prefix).lower() in settings.model_fields
                    patch.setenv(name, variable.get("value") or stand_in(name))
            settings()
        tried.append(settings.__name__)
    assert sorted(tried) == ["AgentSettings", "Settings", "WorkerSettings"]


def stand_in(name: str) -> str:
    """A value of the right form for a variable whose value is a secret or the pod's own."""
    urls = {
        "CMAEV_REDIS_URL": "redis://:secret@redis:6379/0",
        "CMAEV_DATABASE_URL": "postgresql://user:secret@db/cmaev",
    }
    return urls.get(name, "x" * 40)


@needs_kubectl
def test_the_secret_is_documented_in_full(objects: list[dict[str, Any]], rules: ModuleType) -> None:
    wanted = {
        variable["valueFrom"]["secretKeyRef"]["key"]: variable["valueFrom"]["secretKeyRef"]
        for container in containers(objects, rules)
        for variable in container["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert {reference["name"] for reference in wanted.values()} == {SECRET}
    command = re.search(r"create secret generic (\S+) \\\n(.*?)```", README.read_text(), re.DOTALL)
    assert command is not None
    assert command[1] == SECRET
    given = set(re.findall(r"--from-literal=([a-z-]+)=", command[2]))
    assert given == {key for key, reference in wanted.items() if not reference.get("optional")}


def test_the_training_job_is_what_the_command_renders() -> None:
    """k8s/base/training.yaml is generated (CMAEV_UPDATE_SNAPSHOTS=1 writes it anew)."""
    job = load_job(ROOT / "k8s" / "nano-pretrain.yaml")
    placement = Placement(
        name="nano-pretrain",
        namespace="cmaev",
        image="cmaev-trainer:0.1.0",
        runs_claim="cmaev-runs",
        data_claim="cmaev-data",
        suspend=True,
    )
    text = to_yaml(render(job, placement))
    file = BASE / "training.yaml"
    if os.environ.get("CMAEV_UPDATE_SNAPSHOTS"):
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text
