"""A job as Kubernetes objects: a pure function from the specification to plain data.

One pod per node of the job: an Indexed Job, whose completion index is the node rank, and a headless
Service, under whose name node 0 is found. Rendezvous is static, so a pod that is replaced joins
under its old rank. Exit codes decide what happens to a failed pod (cmaev_spec.exits): 64 ends the
job, 75 and a disruption by the cluster start the pod again without counting as a failure.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

from cmaev_spec.base import Spec
from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_STOPPED
from cmaev_spec.job import JobSpec, SpecError
from cmaev_spec.wire import content_hash

USER: Final = 10001
RUNS_PATH: Final = "/runs"
DATA_PATH: Final = "/data"
SPEC_PATH: Final = "/etc/cmaev/spec.json"
RENDEZVOUS_PORT: Final = 29500
CONTAINER: Final = "trainer"
INDEX_ANNOTATION: Final = "batch.kubernetes.io/job-completion-index"

_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9][a-zA-Z0-9._:/@-]*")

Object = dict[str, Any]


class Placement(Spec):
    """Where in a cluster a job runs, and on what.

    `data_claim` is mounted read-only at /data and `runs_claim` at /runs, so paths in the job start
    with one of the two. `runs_claim` must be writable from several nodes if the job has several.
    A suspended job waits until somebody, or a queue, sets `spec.suspend` to false.
    """

    name: str
    namespace: str
    image: str
    runs_claim: str
    data_claim: str | None = None
    retries: int = 6
    grace_seconds: int = 300
    suspend: bool = False


def default_name(job: JobSpec) -> str:
    """The kind and the start of the content hash: the same job always gets the same name."""
    return f"{job.kind}-{content_hash(job)[:8]}"


def render(job: JobSpec, placement: Placement) -> list[Object]:
    """The objects that run `job`, in the order to create them.

    Raises:
        SpecError: naming each part of the placement that Kubernetes would refuse.
    """
    _check(job, placement)
    return [
        _config_map(job, placement),
        _service(placement),
        _network_policy(placement),
        _job(job, placement),
    ]


def to_yaml(objects: Iterable[Mapping[str, Any]]) -> str:
    """The objects as one YAML stream for `kubectl apply -f -`."""
    text = yaml.dump_all(
        objects, Dumper=_Dumper, sort_keys=False, explicit_start=True, allow_unicode=True
    )
    return str(text)


class _Dumper(yaml.SafeDumper):
    """YAML for people: no aliases, and text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def _check(job: JobSpec, placement: Placement) -> None:
    problems: list[tuple[str, str]] = []
    suffix = len(f"-{job.resources.nodes - 1}")
    limits = {
        "name": (placement.name, 63 - suffix),
        "namespace": (placement.namespace, 63),
        "runs_claim": (placement.runs_claim, 63),
        "data_claim": (placement.data_claim, 63),
    }
    for field, (value, longest) in limits.items():
        if value is not None and not (_LABEL.fullmatch(value) and len(value) <= longest):
            problems.append(
                (
                    field,
                    f"{value!r} must be lower-case letters, digits and `-`, begin with a letter, "
                    f"not end with `-`, and have at most {longest} characters",
                )
            )
    if not _IMAGE.fullmatch(placement.image):
        problems.append(("image", f"{placement.image!r} is not an image reference"))
    if placement.retries < 0:
        problems.append(("retries", "must not be negative"))
    if placement.grace_seconds < 1:
        problems.append(("grace_seconds", "must be at least 1"))
    if problems:
        raise SpecError(problems)


def _labels(placement: Placement) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "cmaev",
        "app.kubernetes.io/component": "training",
        "app.kubernetes.io/instance": placement.name,
    }


def _metadata(placement: Placement, *, name: str | None = None) -> Object:
    return {
        "name": name or placement.name,
        "namespace": placement.namespace,
        "labels": _labels(placement),
    }


def _config_map(job: JobSpec, placement: Placement) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(placement, name=f"{placement.name}-spec"),
        "immutable": True,
        "data": {"spec.json": job.model_dump_json(indent=2) + "\n"},
    }


def _service(placement: Placement) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(placement),
        "spec": {
            "clusterIP": "None",
            # The pods look for node 0 before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": _labels(placement),
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }


def _network_policy(placement: Placement) -> Object:
    peers = [{"podSelector": {"matchLabels": _labels(placement)}}]
    dns = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(placement),
        "spec": {
            "podSelector": {"matchLabels": _labels(placement)},
            "policyTypes": ["Ingress", "Egress"],
            # Collectives use any port, and nothing in them asks who is calling.
            "ingress": [{"from": peers}],
            "egress": [{"to": peers}, {"ports": dns}],
        },
    }


def _job(job: JobSpec, placement: Placement) -> Object:
    metadata = _metadata(placement)
    metadata["annotations"] = {"cmaev/kind": job.kind, "cmaev/spec-hash": content_hash(job)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": job.resources.nodes,
            "parallelism": job.resources.nodes,
            "suspend": placement.suspend,
            "backoffLimitPerIndex": placement.retries,
            # Training cannot go on without one of its nodes.
            "maxFailedIndexes": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {"metadata": {"labels": _labels(placement)}, "spec": _pod(job, placement)},
        },
    }


def _failure_rules() -> list[Object]:
    def on_exit(code: int, action: str) -> Object:
        codes = {"containerName": CONTAINER, "operator": "In", "values": [code]}
        return {"action": action, "onExitCodes": codes}

    disruption = {"type": "DisruptionTarget", "status": "True"}
    return [
        {"action": "Ignore", "onPodConditions": [disruption]},
        on_exit(EXIT_STOPPED, "Ignore"),
        on_exit(EXIT_BAD_INPUT, "FailJob"),
    ]


def _pod(job: JobSpec, placement: Placement) -> Object:
    pod: Object = {
        "restartPolicy": "Never",
        "subdomain": placement.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": placement.grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(job, placement)],
        "volumes": _volumes(job, placement),
    }
    if job.resources.nodes > 1:
        pod["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _labels(placement)},
            }
        ]
    if job.resources.device == "cuda":
        pod["tolerations"] = [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
    return pod


def _container(job: JobSpec, placement: Placement) -> Object:
    run_dir = f"{RUNS_PATH}/{placement.name}"
    resources = _quantities(job)
    mounts: list[Object] = [
        {"name": "spec", "mountPath": SPEC_PATH.rpartition("/")[0], "readOnly": True},
        {"name": "runs", "mountPath": RUNS_PATH},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if placement.data_claim:
        mounts.append({"name": "data", "mountPath": DATA_PATH, "readOnly": True})
    return {
        "name": CONTAINER,
        "image": placement.image,
        "command": ["python", "-m", "cmaev.launch"],
        "args": ["--run-dir", run_dir, "--spec", SPEC_PATH],
        "env": _environment(placement),
        "resources": {"requests": resources, "limits": resources},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }


def _environment(placement: Placement) -> list[Object]:
    values = {
        "CMAEV_MASTER_ADDR": f"{placement.name}-0.{placement.name}",
        "CMAEV_MASTER_PORT": str(RENDEZVOUS_PORT),
        "CMAEV_RUNS_DIR": RUNS_PATH,
        # The root file system is read-only: whatever writes caches is told where it may.
        "HOME": "/tmp",
        "MPLCONFIGDIR": "/tmp/matplotlib",
        "TORCHINDUCTOR_CACHE_DIR": "/tmp/inductor",
        "TRITON_CACHE_DIR": "/tmp/triton",
        "PYTHONUNBUFFERED": "1",
    }
    rank = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX_ANNOTATION}']"}}
    return [
        {"name": "CMAEV_NODE_RANK", "valueFrom": rank},
        *({"name": name, "value": value} for name, value in values.items()),
    ]


def _quantities(job: JobSpec) -> dict[str, str]:
    resources = job.resources
    quantities = {
        "cpu": f"{max(1, round(resources.cpus * 1000))}m",
        "memory": _mebibytes(resources.memory_gib),
    }
    if resources.device == "cuda":
        quantities["nvidia.com/gpu"] = str(resources.processes_per_node)
    return quantities


def _volumes(job: JobSpec, placement: Placement) -> list[Object]:
    # Shared memory counts towards the memory limit; a quarter leaves room for the training itself.
    shared = _mebibytes(job.resources.memory_gib / 4)
    volumes: list[Object] = [
        {"name": "spec", "configMap": {"name": f"{placement.name}-spec"}},
        {"name": "runs", "persistentVolumeClaim": {"claimName": placement.runs_claim}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "8Gi"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared}},
    ]
    if placement.data_claim:
        claim = {"claimName": placement.data_claim, "readOnly": True}
        volumes.append({"name": "data", "persistentVolumeClaim": claim})
    return volumes


def _mebibytes(gibibytes: float) -> str:
    return f"{max(1, round(gibibytes * 1024))}Mi"
