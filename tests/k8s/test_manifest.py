"""cmaev_spec.manifest: a job as Kubernetes objects."""

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import yaml

from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_STOPPED
from cmaev_spec.job import JobSpec, SpecError, parse_job
from cmaev_spec.manifest import Placement, default_name, render, to_yaml

MakeJob = Callable[..., JobSpec]
EXTERNAL = frozenset({("PersistentVolumeClaim", "runs"), ("PersistentVolumeClaim", "videos")})

RESOURCES = [
    {},
    {"nodes": 2},
    {"device": "cuda", "nodes": 3, "processes_per_node": 8, "cpus": 31.5, "memory_gib": 200},
    {"cpus": 0.25, "memory_gib": 0.5},
]


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [item for item in objects if item["kind"] == kind]
    return found


def container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (only,) = of_kind(objects, "Job")["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("resources", RESOURCES)
@pytest.mark.parametrize("data_claim", [None, "videos"])
def test_everything_rendered_is_accepted(
    resources: dict[str, Any],
    data_claim: str | None,
    make_job: MakeJob,
    placement: Placement,
    rules: ModuleType,
    validate: Callable[[str], None],
) -> None:
    objects = render(make_job(**resources), placement.model_copy(update={"data_claim": data_claim}))
    assert rules.problems(objects, external=EXTERNAL) == []
    text = to_yaml(objects)
    assert list(yaml.safe_load_all(text)) == objects
    validate(text)


@pytest.mark.parametrize(
    "job",
    [
        {"kind": "evaluate", "source": "job:base", "data": {"index": "/data/test.csv"}},
        {
            "kind": "probe",
            "source": "job:base",
            "data": {"index": "/data/a.csv", "val_index": "/data/b.csv"},
        },
        {"kind": "export", "source": "/runs/base"},
        {
            "kind": "finetune",
            "data": {"index": "/data/a.csv", "val_index": "/data/b.csv"},
            "optim": {"base_lr": 1e-3, "batch_size": 8, "epochs": 1},
        },
    ],
    ids=lambda job: job["kind"],
)
def test_every_kind_of_job_renders(
    job: dict[str, Any], placement: Placement, rules: ModuleType
) -> None:
    objects = render(parse_job(job), placement)
    assert rules.problems(objects, external=EXTERNAL) == []


def test_the_mounted_spec_is_the_job(make_job: MakeJob, placement: Placement) -> None:
    job = make_job(nodes=2)
    objects = render(job, placement)
    config = of_kind(objects, "ConfigMap")
    assert parse_job(json.loads(config["data"]["spec.json"])) == job
    assert container(objects)["args"] == [
        "--run-dir",
        "/runs/nano",
        "--spec",
        "/etc/cmaev/spec.json",
    ]


def test_exit_codes_decide_what_happens_to_a_pod(make_job: MakeJob, placement: Placement) -> None:
    spec = of_kind(render(make_job(nodes=4), placement), "Job")["spec"]
    disrupted, stopped, bad_input = spec["podFailurePolicy"]["rules"]
    assert (disrupted["action"], disrupted["onPodConditions"][0]["type"]) == (
        "Ignore",
        "DisruptionTarget",
    )
    assert (stopped["action"], stopped["onExitCodes"]["values"]) == ("Ignore", [EXIT_STOPPED])
    assert (bad_input["action"], bad_input["onExitCodes"]["values"]) == (
        "FailJob",
        [EXIT_BAD_INPUT],
    )
    assert (spec["completions"], spec["parallelism"], spec["maxFailedIndexes"]) == (4, 4, 0)


def test_rendezvous_points_at_the_first_pod(make_job: MakeJob, placement: Placement) -> None:
    objects = render(make_job(nodes=2), placement)
    env = {item["name"]: item for item in container(objects)["env"]}
    pod = of_kind(objects, "Job")["spec"]["template"]["spec"]
    assert env["CMAEV_MASTER_ADDR"]["value"] == f"nano-0.{pod['subdomain']}"
    port = of_kind(objects, "Service")["spec"]["ports"][0]["port"]
    assert env["CMAEV_MASTER_PORT"]["value"] == str(port)
    path = env["CMAEV_NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_gpus_only_where_the_job_asks_for_cuda(make_job: MakeJob, placement: Placement) -> None:
    objects = render(make_job(device="cuda", processes_per_node=4), placement)
    resources = container(objects)["resources"]
    assert resources["limits"] == resources["requests"]
    assert resources["limits"]["nvidia.com/gpu"] == "4"
    assert of_kind(objects, "Job")["spec"]["template"]["spec"]["tolerations"]
    for device in ("cpu", "auto"):
        plain = render(make_job(device=device), placement)
        assert "nvidia.com/gpu" not in container(plain)["resources"]["limits"]


def test_requests_are_those_of_the_spec(make_job: MakeJob, placement: Placement) -> None:
    objects = render(make_job(cpus=1.5, memory_gib=0.5), placement)
    assert container(objects)["resources"]["limits"] == {"cpu": "1500m", "memory": "512Mi"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Nano"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "9lives"}, "name"),
        ({"name": "nano-"}, "name"),
        ({"name": "a" * 62}, "name"),
        ({"name": "nano\n"}, "name"),
        ({"namespace": "team_a"}, "namespace"),
        ({"runs_claim": "a/b"}, "runs_claim"),
        ({"data_claim": ""}, "data_claim"),
        ({"image": "trainer 1"}, "image"),
        ({"image": ""}, "image"),
        ({"retries": -1}, "retries"),
        ({"grace_seconds": 0}, "grace_seconds"),
    ],
)
def test_a_refused_placement_names_its_field(
    change: dict[str, Any], field: str, make_job: MakeJob, placement: Placement
) -> None:
    with pytest.raises(SpecError) as caught:
        render(make_job(), placement.model_copy(update=change))
    assert [name for name, _ in caught.value.problems] == [field]


def test_the_longest_name_leaves_room_for_the_index(
    make_job: MakeJob, placement: Placement, rules: ModuleType
) -> None:
    long = placement.model_copy(update={"name": "a" * 61})
    assert rules.problems(render(make_job(nodes=10), long), external=EXTERNAL) == []
    with pytest.raises(SpecError, match="at most 60 characters"):
        render(make_job(nodes=20), long)


def test_the_default_name_is_that_of_the_content(make_job: MakeJob) -> None:
    assert default_name(make_job()) == default_name(make_job())
    assert default_name(make_job()) != default_name(make_job(nodes=2))
    assert default_name(make_job()).startswith("pretrain-")
