"""Runs jobs in this process, on clips that were decoded once for all of them."""

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from bench.ceiling.clips import LABELS
from safetensors.torch import save_file

import cmaev.data.reader
import cmaev.data.views
import cmaev.tasks.measure
import cmaev.train
from cmaev.checkpoints.runs import load_run_model
from cmaev.data.held import HeldFrames, hold_frames
from cmaev.data.index import VideoIndex, open_index
from cmaev.data.memory import SharedBytes
from cmaev.data.reader import MemoryReader
from cmaev.engine import distributed
from cmaev.engine.context import Context
from cmaev.engine.distributed import World
from cmaev.engine.events import EventLog
from cmaev.engine.signals import StopRequest
from cmaev.probe import run_probe
from cmaev.train import run_evaluate, run_finetune, run_pretrain
from cmaev_spec.data import LoadingSpec
from cmaev_spec.job import EvaluateJob, FinetuneJob, JobSpec, PretrainJob, ProbeJob
from cmaev_spec.rundir import RunDir


@dataclass(frozen=True)
class Predictions:
    """Probabilities (n, K) of clips, K as in `LABELS`."""

    paths: list[str]
    probability: list[list[float]]


class Resident:
    """All clips, decoded; every index of the study is a part of them."""

    def __init__(self, index: Path, root: Path, *, size: int, workers: int) -> None:
        everything = open_index(str(index), root=str(root))
        self._held = hold_frames(everything, size=size, loading=LoadingSpec(workers=workers))
        self._rows = {path: row for row, path in enumerate(everything.paths)}

    def install(self) -> None:
        """Lets jobs take their frames from here, and draw no charts: there are hundreds of runs."""
        part = lru_cache(maxsize=2)(self._part)

        def hold(index: VideoIndex, **_settings: object) -> HeldFrames:
            return part(tuple(index.paths))

        def read(index: VideoIndex) -> MemoryReader:
            return MemoryReader(part(tuple(index.paths)))

        cmaev.data.reader.hold_frames = hold
        cmaev.data.views.DiskReader = read  # type: ignore[assignment,misc]
        cmaev.train.picture_pretraining = _no_picture
        cmaev.train.picture_losses = _no_picture
        cmaev.tasks.measure.confusion_chart = _empty_picture

    def _part(self, paths: Sequence[str]) -> HeldFrames:
        rows = [self._rows[path] for path in paths]
        shapes = self._held.shapes[rows]
        part = HeldFrames(SharedBytes(int(shapes.prod(axis=1).sum() * 3)), shapes, {})
        for place, row in enumerate(rows):
            part[place][...] = self._held[row]
        return part


def _no_picture(*_arguments: object, **_settings: object) -> None:
    """Draws nothing."""


def _empty_picture(_matrix: object, path: Path, **_settings: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.touch()


@cache
def _world() -> World:
    return distributed.join("auto")


def run(job: JobSpec, folder: Path) -> dict[str, float]:
    """Runs a job to its end in an empty folder; returns its figures."""
    shutil.rmtree(folder, ignore_errors=True)
    directory = RunDir(folder)
    directory.claim(job)
    context = Context(directory, _world(), EventLog(directory, enabled=True), StopRequest())
    if isinstance(job, PretrainJob):
        figures = run_pretrain(job, context)
    elif isinstance(job, FinetuneJob):
        figures = run_finetune(job, context)
    elif isinstance(job, EvaluateJob):
        figures = run_evaluate(job, context)
    else:
        assert isinstance(job, ProbeJob), "nothing is exported here"
        figures = run_probe(job, context)
    assert figures is not None, "nobody asked it to stop"
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return figures


def save_encoder(folder: Path, file: Path) -> None:
    """Keeps the encoder of a pretraining run."""
    tensors = load_run_model(RunDir(folder)).state_dict()
    save_file({name: x for name, x in tensors.items() if name.startswith("encoder.")}, file)


def predictions(file: Path, root: Path) -> Predictions:
    """Reads what an evaluation of clips below `root` answered: probabilities, or the best class."""
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    probability = np.zeros((len(rows), len(LABELS)))
    for row, line in enumerate(rows):
        for column, label in enumerate(LABELS):
            if f"p:{label}" in line:
                probability[row, column] = float(line[f"p:{label}"])
            elif line["prediction"] == label:
                probability[row, column] = 1.0
    paths = [Path(row["path"]).relative_to(root).as_posix() for row in rows]
    return Predictions(paths, probability.round(4).tolist())
