"""Each semantic rule finds the mistake that it is there for."""

import copy
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from cmaev_spec.job import JobSpec
from cmaev_spec.manifest import Placement, render

Object = dict[str, Any]
Break = Callable[[dict[str, Object]], Any]
EXTERNAL = frozenset({("PersistentVolumeClaim", "runs")})


def pod(item: Object) -> Object:
    result: Object = item["spec"]["template"]["spec"]
    return result


def container(item: Object) -> Object:
    result: Object = pod(item)["containers"][0]
    return result


def deployment() -> list[Object]:
    """A small server with its service and disruption budget."""
    labels = {"app": "web"}
    limits = {"cpu": "1", "memory": "64Mi"}
    probe = {"httpGet": {"path": "/", "port": "http"}}
    web = {
        "name": "web",
        "image": "web:1",
        "ports": [{"name": "http", "containerPort": 80}],
        "readinessProbe": probe,
        "livenessProbe": probe,
        "resources": {"requests": limits, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [web],
    }
    metadata = {"name": "web", "namespace": "team-a"}
    selector = {"matchLabels": labels}
    return [
        {
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": 2,
                "selector": selector,
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        },
        {
            "kind": "PodDisruptionBudget",
            "metadata": metadata,
            "spec": {"minAvailable": 1, "selector": selector},
        },
    ]


BREAKS: list[tuple[str, Break]] = [
    ("names", lambda o: o["Service"]["metadata"].update(name="Nano")),
    ("names", lambda o: o["Job"]["metadata"].update(name="a" * 62)),
    ("namespaces", lambda o: o["Job"]["metadata"].pop("namespace")),
    (
        "workload_selectors",
        lambda o: o["Deployment"]["spec"].update(selector={"matchLabels": {"app": "other"}}),
    ),
    ("outer_selectors", lambda o: o["Service"]["spec"].update(selector={"app": "nothing"})),
    (
        "outer_selectors",
        lambda o: o["NetworkPolicy"]["spec"].update(podSelector={"matchLabels": {"app": "no"}}),
    ),
    (
        "policy_peers",
        lambda o: o["NetworkPolicy"]["spec"]["ingress"].append(
            {"from": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]}
        ),
    ),
    (
        "ports",
        lambda o: container(o["Deployment"])["livenessProbe"]["httpGet"].update(port="https"),
    ),
    ("volumes", lambda o: pod(o["Job"])["volumes"].pop()),
    ("volumes", lambda o: container(o["Job"])["volumeMounts"].pop()),
    ("volumes", lambda o: pod(o["Job"])["volumes"].append({"name": "h", "hostPath": {}})),
    ("references", lambda o: o["ConfigMap"]["metadata"].update(name="other")),
    (
        "references",
        lambda o: container(o["Job"])["env"].append(
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "missing", "key": "k"}}}
        ),
    ),
    (
        "secrets",
        lambda o: container(o["Job"])["env"].append({"name": "DB_PASSWORD", "value": "hunter2"}),
    ),
    (
        "secrets",
        lambda o: container(o["Job"])["env"].append({"name": "URL", "value": "redis://:pw@h/0"}),
    ),
    ("restricted", lambda o: pod(o["Job"])["securityContext"].update(runAsUser=0)),
    ("restricted", lambda o: pod(o["Job"]).update(hostNetwork=True)),
    ("restricted", lambda o: pod(o["Job"]).pop("automountServiceAccountToken")),
    ("restricted", lambda o: pod(o["Job"])["securityContext"].pop("seccompProfile")),
    ("restricted", lambda o: container(o["Job"])["securityContext"].pop("capabilities")),
    (
        "restricted",
        lambda o: container(o["Job"])["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    ("resources", lambda o: container(o["Job"])["resources"].pop("requests")),
    ("resources", lambda o: pod(o["Job"])["volumes"][3]["emptyDir"].update(sizeLimit="9Gi")),
    ("images", lambda o: container(o["Job"]).update(image="host:5000/trainer")),
    ("images", lambda o: container(o["Job"]).update(image="trainer:latest")),
    ("probes", lambda o: container(o["Deployment"]).pop("readinessProbe")),
    ("budgets", lambda o: o["PodDisruptionBudget"]["spec"].update(minAvailable=2)),
    ("jobs", lambda o: o["Job"]["spec"].update(parallelism=1)),
    ("jobs", lambda o: pod(o["Job"]).update(restartPolicy="OnFailure")),
    ("jobs", lambda o: pod(o["Job"]).update(subdomain="elsewhere")),
    ("jobs", lambda o: o["Service"]["spec"].update(publishNotReadyAddresses=False)),
    ("job_matches_its_spec", lambda o: o["Job"]["spec"].update(completions=3, parallelism=3)),
    (
        "job_matches_its_spec",
        lambda o: container(o["Job"])["resources"]["limits"].update({"nvidia.com/gpu": "1"}),
    ),
]


@pytest.fixture
def objects(make_job: Callable[..., JobSpec], placement: Placement) -> list[Object]:
    return [*render(make_job(nodes=2), placement), *copy.deepcopy(deployment())]


def test_the_unbroken_set_is_clean(objects: list[Object], rules: ModuleType) -> None:
    assert rules.problems(objects, external=EXTERNAL) == []


@pytest.mark.parametrize(("rule", "change"), BREAKS, ids=[rule for rule, _ in BREAKS])
def test_a_mistake_is_found(
    rule: str, change: Break, objects: list[Object], rules: ModuleType
) -> None:
    change({item["kind"]: item for item in objects})
    assert any(line.startswith(f"{rule}: ") for line in rules.problems(objects, external=EXTERNAL))


def test_a_secret_in_the_set_is_found(objects: list[Object], rules: ModuleType) -> None:
    secret = {"kind": "Secret", "metadata": {"name": "s", "namespace": "team-a"}}
    assert rules.problems([*objects, secret], external=EXTERNAL)


def test_every_rule_is_tried(rules: ModuleType) -> None:
    assert {rule.__name__ for rule in rules.RULES} == {rule for rule, _ in BREAKS}
