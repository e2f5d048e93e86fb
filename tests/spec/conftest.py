"""One small job of every kind."""

from typing import Any

import pytest

from cmaev_spec.job import JobSpec, parse_job

JOBS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "kind": "pretrain",
        "data": {"index": "train.csv", "clip": {"frames": 8, "stride": 2, "size": 32}},
        "optim": {"base_lr": 1e-3, "batch_size": 32, "epochs": 30, "warmup_epochs": 3},
    },
    "finetune": {
        "kind": "finetune",
        "init": "job:0197-ab",
        "data": {"index": "train.csv", "val_index": "val.csv", "labels": ["left", "right"]},
        "optim": {"base_lr": 2e-3, "batch_size": 16, "epochs": 5},
    },
    "probe": {
        "kind": "probe",
        "model": {"name": "cmaev_vit_nano_patch8_32"},
        "data": {
            "index": "train.csv",
            "val_index": "val.csv",
            "clip": {"frames": 8, "stride": 2, "size": 32},
        },
    },
    "evaluate": {"kind": "evaluate", "source": "runs/a", "data": {"index": "test.csv"}},
    "export": {"kind": "export", "source": "job:0197-ab", "model_name": "motion"},
}


@pytest.fixture(params=sorted(JOBS))
def data(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The plain data of one kind of job."""
    return JOBS[request.param]


@pytest.fixture
def job() -> JobSpec:
    return parse_job(JOBS["pretrain"])


@pytest.fixture
def other_job() -> JobSpec:
    return parse_job({**JOBS["pretrain"], "seed": 1})
