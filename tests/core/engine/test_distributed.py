"""Processes of a run."""

import pytest

from cmaev.engine.distributed import check_started
from cmaev_spec.exits import BadInput
from cmaev_spec.resources import ResourceSpec


def test_as_many_processes_are_needed_as_the_job_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    check_started(ResourceSpec())
    with pytest.raises(BadInput, match="nodes x processes_per_node is 6, and 1 processes"):
        check_started(ResourceSpec(nodes=2, processes_per_node=3))
    monkeypatch.setenv("WORLD_SIZE", "6")
    check_started(ResourceSpec(nodes=2, processes_per_node=3))
    with pytest.raises(BadInput, match="is 1, and 6 processes were started"):
        check_started(ResourceSpec())
