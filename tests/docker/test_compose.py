"""compose.yaml: what it refers to is there, and the programs accept what they are told."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from cmaev_api.settings import Settings
from cmaev_serving.agent_settings import AgentSettings
from cmaev_trainer.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::([-?])([^}]*))?\}")
PROGRAMS: dict[str, type[BaseSettings]] = {
    "cmaev_api": Settings,
    "cmaev_trainer": WorkerSettings,
    "cmaev_serving.agent": AgentSettings,
}
SECRETS = ("KEY", "TOKEN", "PASSWORD")


@pytest.fixture(scope="module")
def text() -> str:
    return (ROOT / "compose.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def compose(text: str) -> dict[str, Any]:
    data = yaml.safe_load(text)
    assert isinstance(data, dict)
    return data


def image_environment(service: dict[str, Any]) -> dict[str, str]:
    """The CMAEV_ variables that the service's own image sets."""
    if "build" not in service:
        return {}
    dockerfile = (ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8")
    return dict(re.findall(r"\b(CMAEV_\w+)=(\S+)", dockerfile))


def test_everything_referred_to_is_there(compose: dict[str, Any]) -> None:
    used_volumes, used_networks = set(), set()
    for service in compose["services"].values():
        sources = [volume.rsplit(":/", 1)[0] for volume in service.get("volumes", [])]
        used_volumes |= {source for source in sources if re.fullmatch(r"[a-z]+", source)}
        used_networks |= set(service["networks"])
        assert set(service.get("depends_on", {})) <= compose["services"].keys()
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert used_volumes == compose["volumes"].keys()
    assert used_networks == compose["networks"].keys()


def test_whom_a_service_waits_for_can_tell_its_health(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in compose["services"][name]


def test_only_the_api_is_published_and_on_loopback(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert [name for name, item in services.items() if "ports" in item] == ["api"]
    assert all(port.startswith("127.0.0.1:") for port in services["api"]["ports"])
    assert compose["networks"]["inside"] == {"internal": True}
    assert [name for name, item in services.items() if "outside" in item["networks"]] == ["api"]


def test_images_change_on_purpose_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        tag = service["image"].rpartition("/")[2].partition(":")[2]
        assert tag not in {"", "latest"}


def test_our_services_run_hardened(compose: dict[str, Any]) -> None:
    for name in ("redis", "api", "worker", "serving"):
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_secrets_come_from_the_environment_file(text: str, compose: dict[str, Any]) -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    required = {name for name, how, _ in VARIABLE.findall(text) if how == "?"}
    optional = {name for name, how, _ in VARIABLE.findall(text) if how == "-"}
    assert set(re.findall(r"(?m)^(\w+)=$", example)) == required
    assert set(re.findall(r"(?m)^# (\w+)=", example)) == optional
    assert "/.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            if name.endswith(SECRETS):
                assert VARIABLE.fullmatch(value), f"{name} is written down"


def test_the_programs_accept_their_settings(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    for service in compose["services"].values():
        command = service.get("command", [""])
        settings = PROGRAMS.get(command[-1])
        if settings is None:
            continue
        prefix = settings.model_config["env_prefix"]
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("CMAEV_")]:
                patch.delenv(name)
            for name, value in {**image_environment(service), **service["environment"]}.items():
                assert name.removeprefix(prefix).lower() in settings.model_fields, name
                patch.setenv(name, VARIABLE.sub("x" * 40, value))
            settings()
        tried.append(settings)
    assert tried == [Settings, WorkerSettings, AgentSettings]


def test_services_call_each_other_by_name_and_port(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for value in service["environment"].values():
            address = re.search(r"://(?:[^/]*@)?([a-z]+):(\d+)", VARIABLE.sub("x", value))
            if address is None:
                continue
            name, port = address.groups()
            known = {"api": "8080", "serving": "8090", "redis": "6379", "postgres": "5432"}
            assert known[name] == port
            neighbours = compose["services"][name]["networks"]
            assert set(neighbours) & set(service["networks"])
