"""Canonical JSON, the content hash, and the names that services share."""

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmaev_spec.events import EVENT_ADAPTER
from cmaev_spec.job import JobSpec, parse_job
from cmaev_spec.rundir import event_line
from cmaev_spec.wire import RUNNERS, canonical_json, content_hash

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(st.text(), values, max_size=5)


@given(data=objects)
def test_canonical_json_keeps_the_meaning(data: dict[str, Any]) -> None:
    assert json.loads(canonical_json(data)) == data


@given(data=objects)
def test_the_order_of_keys_does_not_matter(data: dict[str, Any]) -> None:
    turned = dict(reversed(data.items()))
    assert canonical_json(turned) == canonical_json(data)
    assert content_hash(turned) == content_hash(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_number_that_json_lacks(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"x": value})


def test_the_form_is_fixed() -> None:
    """Hashes are stored: a change of this text is a change of the format."""
    data = {"b": [1, 2.5, None], "a": {"ü": True}}
    assert canonical_json(data) == r'{"a":{"\u00fc":true},"b":[1,2.5,null]}'
    assert content_hash(data) == "1d44e843f260da50c7436a2f8f04b511003558a7836855e9d615eacf8bc99d3e"


def test_defaults_written_out_are_the_same_job(data: dict[str, Any]) -> None:
    job = parse_job(data)
    assert content_hash(parse_job(job.model_dump(mode="json"))) == content_hash(job)


def test_the_hash_is_the_same_in_another_process(job: JobSpec) -> None:
    code = (
        "import sys; from cmaev_spec.job import *; from cmaev_spec.wire import *;"
        "print(content_hash(JOB_ADAPTER.validate_json(sys.stdin.read())))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        input=job.model_dump_json(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == content_hash(job)


def test_every_kind_has_a_runner(data: dict[str, Any]) -> None:
    assert RUNNERS.keys() == {"pretrain", "finetune", "probe", "evaluate", "export"}
    assert find_spec(RUNNERS[data["kind"]]) is not None


def test_importing_the_specification_is_light() -> None:
    code = (
        "import pkgutil, importlib, sys, cmaev_spec\n"
        "for module in pkgutil.iter_modules(cmaev_spec.__path__, 'cmaev_spec.'):\n"
        "    importlib.import_module(module.name)\n"
        "heavy = {'torch', 'numpy', 'celery', 'fastapi', 'sqlalchemy', 'httpx', 'typer', 'av'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "started", "time": 1.5, "total_steps": 10, "device": "cpu"},
        {"type": "progress", "time": 1.5, "stage": "pretrain", "step": 1, "total_steps": 10},
        {"type": "metric", "time": 1.5, "step": 1, "values": {"loss": 0.1}},
        {"type": "artifact", "time": 1.5, "kind": "onnx", "path": "a", "bytes": 1, "sha256": "0"},
        {"type": "warning", "time": 1.5, "message": "slow\ndisk"},
        {"type": "outcome", "time": 1.5, "status": "stopped", "exit_code": 75},
    ],
    ids=lambda event: event["type"],
)
def test_an_event_is_one_line(event: dict[str, Any]) -> None:
    parsed = EVENT_ADAPTER.validate_python(event)
    line = event_line(parsed)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert EVENT_ADAPTER.validate_json(line) == parsed
