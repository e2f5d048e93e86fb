"""What an API server, or a careful reviewer, refuses and no schema can see.

`problems(objects)` applies every rule of RULES to a set of Kubernetes objects and returns one line
for each thing that is wrong; an empty list means that the set hangs together.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
WORKLOADS = ("Deployment", "StatefulSet", "Job")
DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
LONG_NAMES = ("ConfigMap", "Secret", "PersistentVolumeClaim")
SECRET_NAME = re.compile(r"PASSWORD|TOKEN|SECRET|(^|_)KEY($|_)")
SECRET_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True)
class Objects:
    """A set of objects, and the names of those that are made elsewhere."""

    items: list[Object]
    external: frozenset[tuple[str, str]] = field(default=frozenset())

    def of(self, *kinds: str) -> Iterator[Object]:
        return (item for item in self.items if item["kind"] in kinds)

    def has(self, kind: str, name: str) -> bool:
        return (kind, name) in self.external or any(
            item["metadata"]["name"] == name for item in self.of(kind)
        )


def problems(
    items: list[Object], *, external: frozenset[tuple[str, str]] = frozenset()
) -> list[str]:
    """Every rule's complaints about `items`."""
    objects = Objects(items, external)
    return [f"{rule.__name__}: {text}" for rule in RULES for text in rule(objects)]


def bytes_of(quantity: str) -> float:
    """A Kubernetes memory quantity in bytes."""
    for unit, factor in UNITS.items():
        if quantity.endswith(unit):
            return float(quantity.removesuffix(unit)) * factor
    return float(quantity)


def label(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def template(item: Object) -> Object:
    result: Object = item["spec"]["template"]
    return result


def pod(item: Object) -> Object:
    result: Object = template(item)["spec"]
    return result


def labels(item: Object) -> dict[str, str]:
    result: dict[str, str] = template(item).get("metadata", {}).get("labels", {})
    return result


def containers(item: Object) -> list[Object]:
    return [*pod(item).get("initContainers", []), *pod(item)["containers"]]


def matches(selector: dict[str, str], item: Object) -> bool:
    return selector.items() <= labels(item).items()


def same_namespace(one: Object, other: Object) -> bool:
    return bool(one["metadata"].get("namespace") == other["metadata"].get("namespace"))


def names(objects: Objects) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    for item in objects.items:
        name = item["metadata"]["name"]
        if (item["kind"], name) in seen:
            yield f"{label(item)} is there twice"
        seen.add((item["kind"], name))
        last = f"-{item['spec']['completions'] - 1}" if item["kind"] == "Job" else ""
        if item["kind"] not in LONG_NAMES and not DNS_LABEL.fullmatch(name + last):
            yield f"{label(item)} is no DNS label (with the index: {name + last!r})"


def namespaces(objects: Objects) -> Iterator[str]:
    for item in objects.items:
        if item["kind"] != "Namespace" and not item["metadata"].get("namespace"):
            yield f"{label(item)} has no namespace"


def workload_selectors(objects: Objects) -> Iterator[str]:
    for item in objects.of("Deployment", "StatefulSet"):
        if not matches(item["spec"]["selector"]["matchLabels"], item):
            yield f"{label(item)} does not select its own pods"


def outer_selectors(objects: Objects) -> Iterator[str]:
    fields = {"Service": "selector", "PodDisruptionBudget": "selector"}
    for item in objects.of("Service", "PodDisruptionBudget", "NetworkPolicy"):
        selector = item["spec"].get(fields.get(item["kind"], "podSelector"), {})
        wanted = selector if item["kind"] == "Service" else selector.get("matchLabels", {})
        hits = [
            work
            for work in objects.of(*WORKLOADS)
            if matches(wanted, work) and same_namespace(item, work)
        ]
        if not hits:
            yield f"{label(item)} selects nothing"
        if item["kind"] == "Service" and len(hits) > 1:
            yield f"{label(item)} selects {', '.join(label(hit) for hit in hits)}"


def policy_peers(objects: Objects) -> Iterator[str]:
    for item in objects.of("NetworkPolicy"):
        flows = [("from", flow) for flow in item["spec"].get("ingress", [])]
        flows += [("to", flow) for flow in item["spec"].get("egress", [])]
        for key, flow in flows:
            for peer in flow.get(key, []):
                wanted = peer.get("podSelector", {}).get("matchLabels", {})
                if "namespaceSelector" in peer or not wanted:
                    continue
                if not any(matches(wanted, work) for work in objects.of(*WORKLOADS)):
                    yield f"{label(item)} names a peer that nothing is: {wanted}"


def ports(objects: Objects) -> Iterator[str]:
    for item in objects.of(*WORKLOADS):
        known = {p.get("name") for c in containers(item) for p in c.get("ports", [])}
        for container in containers(item):
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if isinstance(port, str) and port not in known:
                    yield f"{label(item)} probes the unknown port {port!r}"
        for service in objects.of("Service"):
            if service["spec"].get("clusterIP") == "None" and item["kind"] == "Job":
                continue
            if not matches(service["spec"]["selector"], item):
                continue
            for port in service["spec"]["ports"]:
                if port.get("targetPort") not in known:
                    yield f"{label(service)} targets a port that {label(item)} does not name"


def volumes(objects: Objects) -> Iterator[str]:
    for item in objects.of(*WORKLOADS):
        claims = {c["metadata"]["name"] for c in item["spec"].get("volumeClaimTemplates", [])}
        there = {volume["name"] for volume in pod(item).get("volumes", [])} | claims
        used = {mount["name"] for c in containers(item) for mount in c.get("volumeMounts", [])}
        for name in sorted(used - there):
            yield f"{label(item)} mounts {name!r}, which is no volume"
        for name in sorted(there - used):
            yield f"{label(item)} mounts the volume {name!r} nowhere"
        if any("hostPath" in volume for volume in pod(item).get("volumes", [])):
            yield f"{label(item)} uses a path of its host"


def references(objects: Objects) -> Iterator[str]:
    for item in objects.of(*WORKLOADS):
        wanted: set[tuple[str, str]] = set()
        for volume in pod(item).get("volumes", []):
            if "configMap" in volume:
                wanted.add(("ConfigMap", volume["configMap"]["name"]))
            if "secret" in volume:
                wanted.add(("Secret", volume["secret"]["secretName"]))
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                wanted.add(("PersistentVolumeClaim", claim))
        for container in containers(item):
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                if "secretKeyRef" in source:
                    wanted.add(("Secret", source["secretKeyRef"]["name"]))
                if "configMapKeyRef" in source:
                    wanted.add(("ConfigMap", source["configMapKeyRef"]["name"]))
            for source in container.get("envFrom", []):
                for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                    if key in source:
                        wanted.add((kind, source[key]["name"]))
        for kind, name in sorted(wanted):
            if not objects.has(kind, name):
                yield f"{label(item)} needs {kind}/{name}, which nothing makes"


def secrets(objects: Objects) -> Iterator[str]:
    for item in objects.of("Secret"):
        yield f"{label(item)} is contained; refer to it instead"
    for item in objects.of(*WORKLOADS):
        for container in containers(item):
            for variable in container.get("env", []):
                value = variable.get("value", "")
                name = variable["name"]
                if SECRET_NAME.search(name) and value and not name.endswith("_FILE"):
                    yield f"{label(item)} has {name} in the open"
                if SECRET_URL.search(value) and "$(" not in value:
                    yield f"{label(item)} has a password in {name}"


def restricted(objects: Objects) -> Iterator[str]:
    for item in objects.of(*WORKLOADS):
        spec = pod(item)
        outer = spec.get("securityContext", {})
        if outer.get("runAsNonRoot") is not True or outer.get("runAsUser", 0) == 0:
            yield f"{label(item)} may run as root"
        if outer.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{label(item)} has no seccomp profile"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{label(item)} mounts a service account token"
        if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{label(item)} shares a namespace with its host"
        for container in containers(item):
            context = container.get("securityContext", {})
            if context.get("allowPrivilegeEscalation") is not False:
                yield f"{label(item)} may gain privileges"
            if context.get("capabilities", {}).get("drop") != ["ALL"]:
                yield f"{label(item)} keeps capabilities"
            if context.get("readOnlyRootFilesystem") is not True:
                yield f"{label(item)} has a writable root file system"


def resources(objects: Objects) -> Iterator[str]:
    for item in objects.of(*WORKLOADS):
        shared = [
            volume["emptyDir"]["sizeLimit"]
            for volume in pod(item).get("volumes", [])
            if volume.get("emptyDir", {}).get("medium") == "Memory"
        ]
        for container in containers(item):
            given = container.get("resources", {})
            if not {"cpu", "memory"} <= given.get("requests", {}).keys():
                yield f"{label(item)} requests no cpu or memory"
            limit = given.get("limits", {}).get("memory")
            if limit is None:
                yield f"{label(item)} has no memory limit"
            elif sum(map(bytes_of, shared)) >= bytes_of(limit):
                yield f"{label(item)} has more shared memory than memory"


def images(objects: Objects) -> Iterator[str]:
    for item in objects.of(*WORKLOADS):
        for container in containers(item):
            image = container["image"]
            tag = image.rpartition("/")[2].partition(":")[2]
            if "@sha256:" not in image and tag in {"", "latest"}:
                yield f"{label(item)} runs {image}, which changes under it"


def probes(objects: Objects) -> Iterator[str]:
    for item in objects.of("Deployment", "StatefulSet"):
        for container in pod(item)["containers"]:
            for probe in ("readinessProbe", "livenessProbe"):
                if container.get("ports") and probe not in container:
                    yield f"{label(item)} has no {probe}"


def budgets(objects: Objects) -> Iterator[str]:
    for item in objects.of("PodDisruptionBudget"):
        wanted = item["spec"]["selector"]["matchLabels"]
        for work in objects.of("Deployment", "StatefulSet"):
            replicas = work["spec"].get("replicas", 1)
            if matches(wanted, work) and item["spec"].get("minAvailable", 0) >= replicas:
                yield f"{label(item)} lets no node be drained"


def jobs(objects: Objects) -> Iterator[str]:
    for item in objects.of("Job"):
        spec = item["spec"]
        if pod(item).get("restartPolicy") != "Never":
            yield f"{label(item)} restarts its container, so no failure policy sees it end"
        if spec["completions"] != spec["parallelism"]:
            yield f"{label(item)} does not run all of its pods at once"
        if spec.get("completionMode") != "Indexed":
            yield f"{label(item)} gives its pods no rank"
        headless = [
            service
            for service in objects.of("Service")
            if service["metadata"]["name"] == pod(item).get("subdomain")
            and service["spec"].get("clusterIP") == "None"
            and service["spec"].get("publishNotReadyAddresses")
            and matches(service["spec"]["selector"], item)
        ]
        if not headless:
            yield f"{label(item)} has no headless service under its subdomain"


def job_matches_its_spec(objects: Objects) -> Iterator[str]:
    maps = {item["metadata"]["name"]: item for item in objects.of("ConfigMap")}
    for item in objects.of("Job"):
        mounted = [v["configMap"]["name"] for v in pod(item)["volumes"] if "configMap" in v]
        if not mounted or mounted[0] not in maps:
            continue  # `references` speaks of it
        wanted = json.loads(maps[mounted[0]]["data"]["spec.json"])["resources"]
        if item["spec"]["completions"] != wanted["nodes"]:
            yield f"{label(item)} has another number of pods than its job has nodes"
        gpus = int(containers(item)[0]["resources"]["limits"].get("nvidia.com/gpu", 0))
        if gpus != (wanted["processes_per_node"] if wanted["device"] == "cuda" else 0):
            yield f"{label(item)} has another number of GPUs than processes"


RULES: tuple[Callable[[Objects], Iterator[str]], ...] = (
    names,
    namespaces,
    workload_selectors,
    outer_selectors,
    policy_peers,
    ports,
    volumes,
    references,
    secrets,
    restricted,
    resources,
    images,
    probes,
    budgets,
    jobs,
    job_matches_its_spec,
)
