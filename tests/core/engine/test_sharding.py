"""What can be said of sharding without a second process; see test_two_ranks.py for the rest."""

import pytest
import torch

from cmaev.engine.sharding import gathered, load_model, part_like, whole
from cmaev_spec.job import SpecError, parse_job
from cmaev_spec.preset import load_preset


def test_whole_tensors_pass_as_they_are():
    value = torch.ones(2)
    assert whole(value) is value
    assert gathered({"a": value}, keep=True)["a"] is value
    assert gathered({"a": value}, keep=False) == {}
    assert torch.equal(part_like(value, torch.zeros(2)), value)


def test_weights_of_another_model_are_refused():
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_model(torch.nn.Linear(2, 2), {"other": torch.ones(2)})


@pytest.mark.parametrize(
    ("resources", "run", "message"),
    [
        ({"shard": "full"}, {}, "shard: one process has nothing to share; raise processes_per"),
        (
            {"shard": "full", "processes_per_node": 2},
            {"compile": "step"},
            "set run.compile to blocks or none, or resources.shard to none",
        ),
        (
            {"shard": "full", "processes_per_node": 2},
            {"compile": "step", "cuda_graphs": True},
            "set run.compile to blocks or none",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(resources, run, message):
    spec = load_preset("nano-pretrain")
    with pytest.raises(SpecError, match=message):
        parse_job({**spec, "resources": resources, "run": run})


def test_only_training_is_sharded():
    resources = {"shard": "full", "processes_per_node": 2}
    with pytest.raises(SpecError, match="only what is trained is sharded"):
        parse_job({**load_preset("evaluate"), "resources": resources})
    job = parse_job({**load_preset("nano-pretrain"), "resources": resources})
    assert job.resources.shard == "full"
