"""Whole runs in two processes, with replicas or in shards, are those in one."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from cmaev.engine.checkpoint import load_model_state, load_training_state, newest_checkpoint
from cmaev.engine.distributed import World
from cmaev.engine.events import read_metrics
from cmaev_spec.rundir import RunDir

SCRIPT = Path(__file__).with_name("two_ranks.py")
HYBRID = "cmaev_convvit_nano_patch8_32"


def load_script():
    spec = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["two_ranks"] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


two_ranks = load_script()
Case = two_ranks.Case


HALFWAY = Case(sharded=True, last_step=1)
QUICK = {
    "replicas": Case(bad_step=1),
    "shards": Case(sharded=True, clip_grad=0.5, bad_step=1),
}
SLOW = {
    "hybrid": Case(model=HYBRID),
    "sharded hybrid": Case(model=HYBRID, sharded=True),
    "shards, checkpointing": Case(sharded=True, checkpointing=True),
    "shards, symmetric": Case(sharded=True, symmetric=True),
    "accumulated": Case(accumulate=2),
    "shards, accumulated": Case(sharded=True, accumulate=2),
    "shards, compiled": Case(sharded=True, compile="blocks"),
}


def alone(path, case):
    two_ranks.train(path, case, World(rank=0, size=1, device=two_ranks.CPU))
    return RunDir(path)


def together(folder, cases):
    """Runs the cases one after the other in the same two processes."""
    runs = json.dumps([(str(folder / name), asdict(case)) for name, case in cases.items()])
    command = [sys.executable, str(SCRIPT)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(folder / "store"), runs]) for rank in (0, 1)
    ]
    try:
        assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Where the quick cases ran, and where a run of one process went on in two."""
    folder = tmp_path_factory.mktemp("quick")
    alone(folder / "moved", Case(last_step=0))
    return together(folder, {**QUICK, "moved": HALFWAY})


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return together(tmp_path_factory.mktemp("slow"), SLOW)


def assert_same(one, two):
    first, second = newest_checkpoint(one), newest_checkpoint(two)
    assert first.name == second.name
    weights, other = load_model_state(first), load_model_state(second)
    assert weights.keys() == other.keys()
    for name, value in weights.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-6, msg=name)
    moments = load_training_state(first)["optimizer"]
    other_moments = load_training_state(second)["optimizer"]
    assert moments.keys() == other_moments.keys()
    for name, state in moments.items():
        for key, value in state.items():
            torch.testing.assert_close(other_moments[name][key], value, rtol=1e-4, atol=1e-6)
    rows, other_rows = read_metrics(one.metrics), read_metrics(two.metrics)
    assert len(rows) == len(other_rows)
    for row, other_row in zip(rows, other_rows, strict=True):
        for name in row.keys() & {"loss", "grad_norm", "skipped_steps"}:
            assert other_row[name] == pytest.approx(row[name], rel=1e-5), name


def assert_as_in_one_process(path, case, tmp_path):
    """In the bad step the loss of one process alone is not finite; both leave it out."""
    one = alone(tmp_path / "one", replace(case, sharded=False, compile="none"))
    two = RunDir(path)
    assert_same(one, two)
    skipped = [row["skipped_steps"] for row in read_metrics(two.metrics)]
    assert skipped == ([0, 0, 0] if case.bad_step is None else [0, 1, 1])


@pytest.mark.parametrize("name", QUICK)
def test_two_processes_with_half_a_batch_are_one_with_all_of_it(quick, name, tmp_path):
    assert_as_in_one_process(quick / name, QUICK[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_so_they_are_with_every_switch(slow, name, tmp_path):
    assert_as_in_one_process(slow / name, SLOW[name], tmp_path)


def test_a_run_goes_from_one_process_to_shards_and_back(quick, tmp_path):
    parts = RunDir(quick / "moved")
    assert newest_checkpoint(parts).name == "step-00000002"
    assert_same(alone(tmp_path / "whole", Case()), alone(parts.path, Case()))
