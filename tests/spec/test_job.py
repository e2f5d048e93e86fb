"""Job specifications: what is accepted, what is refused, and how it is said."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cmaev_spec.job import (
    JOB_ADAPTER,
    JobSpec,
    SpecError,
    apply_overrides,
    load_job,
    parse_job,
    referenced_run,
)
from cmaev_spec.optim import OptimSpec
from cmaev_spec.resources import RunControlSpec

PROBE = {
    "kind": "probe",
    "model": {},
    "data": {"index": "train.csv", "val_index": "val.csv", "clip": {}},
}
SCHEMA = Path(__file__).with_name("job.schema.json")


def mappings(data: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every mapping in nested data."""
    yield path
    for key, value in data.items():
        if isinstance(value, dict):
            yield from mappings(value, (*path, key))


def test_round_trip(data: dict[str, Any]) -> None:
    job = parse_job(data)
    assert parse_job(job.model_dump()) == job
    assert parse_job(json.loads(job.model_dump_json())) == job
    assert parse_job(yaml.safe_load(yaml.safe_dump(job.model_dump(mode="json")))) == job


def test_an_unknown_field_is_refused_at_every_depth(data: dict[str, Any]) -> None:
    full = parse_job(data).model_dump(mode="json")
    for path in mappings(full):
        broken = json.loads(json.dumps(full))
        node = broken
        for key in path:
            node = node[key]
        node["tpyo"] = 1
        with pytest.raises(SpecError) as caught:
            parse_job(broken)
        (problem,) = caught.value.problems
        assert problem[0] == ".".join((*path, "tpyo"))
        assert "unknown field" in problem[1]


def test_jobs_do_not_change(job: JobSpec) -> None:
    with pytest.raises(ValidationError):
        job.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"kind": "pretrian"}, "kind", "must be one of pretrain"),
        ({"kind": None}, "kind", "must be one of pretrain"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"schema_version": 2}, "schema_version", "should be 1"),
        ({"data.clip.frames": 7}, "data.clip.frames", "multiple of 2"),
        ({"optim.epochs": 0}, "optim.epochs", "greater than or equal to 1"),
        ({"optim.warmup_epochs": 30}, "optim.warmup_epochs", "less than epochs (30); set it to 0"),
        (
            {"optim.accumulate": 5},
            "optim.batch_size",
            "multiple of accumulate (5); nearest: 30 and 35",
        ),
        ({"resources.nodes": 3}, "optim.batch_size", "x accumulate (3); nearest: 30 and 33"),
        ({"resources.nodes": 64}, "optim.batch_size", "x accumulate (64); nearest: 64"),
        ({"resources.shard": "full"}, "resources.shard", "one process has nothing to share"),
        ({"data.clip.sampling": "tsn"}, "data.clip.sampling", "tsn has no time shift"),
        (
            {"optim.batch_size": 1},
            "optim.batch_size",
            "contrasted with the others of its micro-batch",
        ),
        ({"optim.accumulate": 32}, "optim.batch_size", "batch_size / accumulate at least 2"),
        ({"objective.mask_ratio": 1.0}, "objective.mask_ratio", "less than 1"),
        ({"optim.base_lr": "fast"}, "optim.base_lr", "valid number"),
    ],
)
def test_a_refusal_names_the_field(
    changes: dict[str, Any], field: str, message: str, job: JobSpec
) -> None:
    data = job.model_dump(mode="json")
    broken = apply_overrides(data, [f"{key}={json.dumps(value)}" for key, value in changes.items()])
    with pytest.raises(SpecError) as caught:
        parse_job(broken)
    ((at, text),) = caught.value.problems
    assert at == field
    assert message in text


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("optim.lr", "optim.base_lr"),
        ("optim.warmup", "optim.warmup_epochs"),
        ("optim.bach_size", "optim.batch_size"),
        ("data.balanced", "balanced"),
        ("epochs", "optim.epochs"),
        ("dat", "data"),
        ("data.augment.rand_augment.probabilty", "data.augment.rand_augment.probability"),
    ],
)
def test_an_unknown_field_is_told_what_it_may_mean(unknown: str, meant: str) -> None:
    data = {"kind": "finetune", "data": {"index": "a", "val_index": "b"}}
    optim = ["optim.base_lr=1", "optim.batch_size=8", "optim.epochs=2"]
    with pytest.raises(SpecError) as caught:
        parse_job(apply_overrides(data, [*optim, f"{unknown}=1"]))
    assert caught.value.problems == [(unknown, f"unknown field; did you mean {meant}?")]


@pytest.mark.parametrize("field", ["base_lr", "base_min_lr", "weight_decay", "clip_grad"])
@pytest.mark.parametrize(
    ("suffix", "texts"),
    [
        ("yaml", {".nan": "finite", ".inf": "finite", "-1.0": "greater than", "-.inf": "finite"}),
        ("json", {"NaN": "finite", "Infinity": "finite", "-1": "greater than", "1e999": "finite"}),
    ],
)
def test_rates_are_positive_and_finite_wherever_they_come_from(
    field: str, suffix: str, texts: dict[str, str], job: JobSpec, tmp_path: Path
) -> None:
    data = job.model_dump(mode="json")
    data["optim"][field] = "HERE"
    for text, message in texts.items():
        path = tmp_path / f"spec.{suffix}"
        path.write_text(json.dumps(data).replace('"HERE"', text))
        with pytest.raises(SpecError, match=rf"optim\.{field}: .*{message}"):
            load_job(path)
    for value in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValidationError, match=field):
            OptimSpec.model_validate(
                {**OptimSpec(base_lr=1, batch_size=1, epochs=1).model_dump(), field: value}
            )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "model and data.clip say what is probed"),
        ({"data.clip": None}, "model and data.clip say what is probed"),
        ({"knn": None, "linear": None, "attentive": None}, "keep at least one"),
    ],
)
def test_a_probe_says_what_is_probed_and_how(changes: dict[str, Any], message: str) -> None:
    data = apply_overrides(PROBE, [f"{key}={json.dumps(value)}" for key, value in changes.items()])
    with pytest.raises(SpecError, match=message):
        parse_job(data)


def test_mixing_needs_pairs() -> None:
    job = {
        "kind": "finetune",
        "data": {"index": "a", "val_index": "b", "augment": {"mixup": 0.8}},
        "optim": {"base_lr": 1e-3, "batch_size": 6, "epochs": 1},
        "resources": {"processes_per_node": 2},
    }
    with pytest.raises(SpecError, match=r"pair the clips of a micro-batch, which has 3; make"):
        parse_job(job)
    for even in (["data.num_sample=2"], ["optim.batch_size=8"], ["data.augment.mixup=0"]):
        parse_job(apply_overrides(job, even))


def test_every_problem_is_told_at_once(job: JobSpec) -> None:
    broken = apply_overrides(job.model_dump(), ["seed=-1", "optim.epochs=0"])
    with pytest.raises(SpecError) as caught:
        parse_job(broken)
    assert [field for field, _ in caught.value.problems] == ["seed", "optim.epochs"]


@pytest.mark.parametrize("data", [None, 3, "pretrain", [], {}])
def test_what_is_no_job_at_all(data: object) -> None:
    with pytest.raises(SpecError):
        parse_job(data)


def test_overrides_leave_the_original_alone() -> None:
    data = {"kind": "pretrain", "optim": {"epochs": 1}}
    result = apply_overrides(data, ["optim.epochs=2", "data.clip.size=64", "name=null", "x=a=b"])
    assert result == {
        "kind": "pretrain",
        "optim": {"epochs": 2},
        "data": {"clip": {"size": 64}},
        "name": None,
        "x": "a=b",
    }
    assert data == {"kind": "pretrain", "optim": {"epochs": 1}}


@pytest.mark.parametrize(
    ("override", "field"),
    [("optim.epochs", "override"), ("=3", "override"), ("kind.x=1", "kind.x"), ("a=[1", "a")],
)
def test_a_malformed_override_is_refused(override: str, field: str) -> None:
    with pytest.raises(SpecError) as caught:
        apply_overrides({"kind": "pretrain"}, [override])
    assert caught.value.problems[0][0] == field


@given(
    path=st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=4),
    value=st.one_of(st.integers(), st.booleans(), st.none(), st.text("abc", min_size=1)),
)
def test_an_override_sets_exactly_its_key(path: list[str], value: object) -> None:
    result: Any = apply_overrides({}, [f"{'.'.join(path)}={json.dumps(value)}"])
    for key in path:
        assert list(result) == [key]
        result = result[key]
    assert result == value


def test_a_job_is_read_from_yaml_and_json(tmp_path: Path, data: dict[str, Any]) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "job.json").write_text(json.dumps(data))
    job = load_job(tmp_path / "job.yaml", overrides=["seed=7"])
    assert job == load_job(tmp_path / "job.json", overrides=["seed=7"])
    assert job.seed == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"kind: [", "is not YAML"),
        (b"- kind", "must hold a mapping"),
        (b"", "must hold a mapping"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"!!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_a_file_that_is_no_spec(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=message):
        load_job(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot read .*none\.yaml: No such file"):
        load_job(tmp_path / "none.yaml")


def test_graphs_without_a_compiled_step_are_refused() -> None:
    with pytest.raises(ValidationError, match="set compile to step, or leave cuda_graphs out"):
        RunControlSpec(compile="blocks", cuda_graphs=True)
    assert RunControlSpec(compile="step", cuda_graphs=True).cuda_graphs


def test_the_run_that_a_job_starts_from(data: dict[str, Any]) -> None:
    expected = {
        "pretrain": None,
        "finetune": "job:0197-ab",
        "probe": None,
        "evaluate": "runs/a",
        "export": "job:0197-ab",
    }
    assert referenced_run(parse_job(data)) == expected[data["kind"]]


def test_the_schema_is_the_published_one() -> None:
    """The schema is an interface: a change shows here (CMAEV_UPDATE_SNAPSHOTS=1 accepts it)."""
    schema = json.dumps(JOB_ADAPTER.json_schema(), indent=2, sort_keys=True) + "\n"
    if os.environ.get("CMAEV_UPDATE_SNAPSHOTS"):
        SCHEMA.write_text(schema)
    assert SCHEMA.read_text() == schema
