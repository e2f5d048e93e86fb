"""Jobs of a few seconds, started as the command line and the workers start them."""

import sys

import torch

from cmaev import launch
from cmaev.engine.events import read_metrics
from cmaev_spec.events import EVENT_ADAPTER
from cmaev_spec.job import parse_job
from cmaev_spec.preset import load_preset
from cmaev_spec.rundir import RunDir


def job(kind, videos, **changes):
    spec = load_preset(f"nano-{kind}")
    spec["data"]["index"] = str(videos / "train.csv")
    if kind == "finetune":
        spec["data"]["val_index"] = str(videos / "val.csv")
    spec["optim"] |= {"epochs": 2, "batch_size": 8, "warmup_epochs": 1}
    spec["run"] = {"log_every": 1, "checkpoint_every": 1}
    for path, value in changes.items():
        section, _, field = path.partition("__")
        if field:
            spec[section] = {**spec.get(section, {}), field: value}
        else:
            spec[section] = value
    return parse_job(spec)


def run(path, spec):
    folder = RunDir(path)
    folder.claim(spec)
    return launch.main(["--run-dir", str(path)]), folder


def events(folder):
    return [EVENT_ADAPTER.validate_json(line) for line in folder.events.read_text().splitlines()]


def command(folder):
    return [sys.executable, "-m", "cmaev.launch", "--run-dir", str(folder.path)]


def losses(folder):
    """Rows of the metrics without the timings."""
    timings = {"clips_per_second", "data_wait"}
    return [
        {name: value for name, value in row.items() if name not in timings}
        for row in read_metrics(folder.metrics)
    ]


def equal(one, other):
    """Whether two states are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other
