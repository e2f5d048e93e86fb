"""Does pretraining help on generated videos? `python -m bench.generated --out DIR`.

Their class is told by motion alone, while every video has colours of its own: the contrast may tell
clips apart by colour and learn nothing of motion. Most tubelets show background that nothing could
predict, and standardised each counts as much as the object. Each pretraining is measured frozen and
finetuned with more and fewer labels.
"""

import argparse
import csv
import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.ceiling.running import Resident, run
from bench.ceiling.work import work_through

from cmaev.data.synth import synthesise
from cmaev_spec.files import write_atomic
from cmaev_spec.job import FinetuneJob, PretrainJob, parse_job

CLIP = {"frames": 8, "stride": 2, "size": 32}
MODEL = "cmaev_vit_nano_patch8_32"
LABELS_PER_CLASS = (5, 10, 25, 50)
STEPS = 600
"""Of finetuning, whatever the number of labels."""
MORE = 500
"""Videos of each class that some pretrainings see besides, ten times as many as have labels."""


class Finetuning(NamedTuple):
    """With how many labels, and how."""

    labels: int
    """Per class."""
    times: int = 1
    """As many steps as usual."""
    rand_augment: bool = False

    @property
    def name(self) -> str:
        """Names files, and a column."""
        parts = [f"{self.labels} labels"]
        parts += [f"{self.times} times as long"] if self.times > 1 else []
        return ", ".join([*parts, "RandAugment"] if self.rand_augment else parts)


FEWEST, ALL = LABELS_PER_CLASS[0], LABELS_PER_CLASS[-1]
LONGEST = Finetuning(ALL, times=3)
FINETUNINGS = (
    *(Finetuning(count) for count in LABELS_PER_CLASS),
    Finetuning(FEWEST, rand_augment=True),
    LONGEST,
    Finetuning(ALL, times=3, rand_augment=True),
)
PLAIN = {"norm_pix": False, "mask_ratio": 0.5}
"""A target in which the object counts most, and can be told from what is visible."""
PRETRAININGS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "reconstruction": {"contrast_weight": 0.0},
    "cmaev": {},
    "cmaev, no colour augmentation": {"color_augment": False},
    "cmaev, contrast alone": {"reconstruction_weight": 0.0},
    "reconstruction, 4 times as long": {"contrast_weight": 0.0, "epochs": 400},
    "reconstruction, 4 times as long, plain pixels": {
        "contrast_weight": 0.0,
        "epochs": 400,
        **PLAIN,
    },
    "cmaev, 4 times as long": {"epochs": 400},
    "cmaev, more videos": {"more": True},
    "reconstruction, more videos, plain pixels": {"contrast_weight": 0.0, "more": True, **PLAIN},
    "cmaev, more videos, plain pixels": {"more": True, **PLAIN},
    "cmaev, more videos, plain pixels, no colour augmentation": {
        "more": True,
        "color_augment": False,
        **PLAIN,
    },
}
"""100 epochs of the labelled videos unless told; more videos: as many clips as 4 times as long."""


@dataclass(frozen=True)
class Task:
    """A pretraining with its probes, or a finetuning from it."""

    arm: str
    seed: int
    finetuning: Finetuning | None = None

    @property
    def name(self) -> str:
        """Names its files."""
        what = "no labels" if self.finetuning is None else self.finetuning.name
        return f"{self.arm}, seed {self.seed}, {what}".replace(" ", "-")


@dataclass(frozen=True)
class Study:
    """Where everything is, and how much of it."""

    out: Path
    seeds: int
    arms: Sequence[str] = tuple(PRETRAININGS)
    finetunings: Sequence[Finetuning] = FINETUNINGS
    draw: int = 0
    """Of the videos, all of them."""
    held_out: int = 25
    """Videos of each class."""

    def result(self, task: Task) -> Path:
        """What a task found."""
        return self.out / "tasks" / f"{task.name}.json"

    def folder(self, task: Task) -> Path:
        """The run of a task."""
        return self.out / "runs" / task.name

    def plan(self) -> dict[Task, list[Task]]:
        """Every finetuning after its pretraining."""
        plan: dict[Task, list[Task]] = {}
        for seed in range(self.seeds):
            for arm in reversed(self.arms):  # the longest first
                before = Task(arm, seed)
                plan[before] = []
                plan |= {Task(arm, seed, how): [before] for how in self.finetunings}
        return plan

    def do(self, task: Task) -> None:
        """Runs a task and writes down what came out."""
        how = task.finetuning
        found = self._pretrain(task) if how is None else self._finetune(task, how)
        self.result(task).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.result(task), json.dumps(found))

    def _pretrain(self, task: Task) -> dict[str, float]:
        found: dict[str, float] = {}
        if task.arm != "scratch":
            found |= run(self.pretraining(task), self.folder(task))
        source = None if task.arm == "scratch" else str(self.folder(task))
        probe = parse_job(
            {
                "kind": "probe",
                "seed": task.seed,
                "source": source,
                "model": {"name": MODEL} if source is None else None,
                "data": {
                    "index": str(self._index(ALL)),
                    "val_index": str(self._videos / "val.csv"),
                    "clip": CLIP,
                },
                "attentive": {"epochs": 60},
            }
        )
        asked = self.out / "runs" / f"{task.name}-probe"
        found |= run(probe, asked)
        shutil.rmtree(asked)
        return found

    def pretraining(self, task: Task) -> PretrainJob:
        """The job of a pretraining."""
        options = dict(PRETRAININGS[task.arm])
        more = options.pop("more", False)
        epochs = options.pop("epochs", 36 if more else 100)
        data = {"color_augment": options.pop("color_augment", True)}
        job = parse_job(
            {
                "kind": "pretrain",
                "seed": task.seed,
                "model": {"name": MODEL},
                "objective": {"mask_ratio": 0.75, **options},
                "data": {
                    "index": str(self._many if more else self._index(ALL)),
                    "clip": CLIP,
                    "cache": "memory",
                    **data,
                },
                "optim": _optim(epochs),
                "run": {"checkpoint_every": epochs, "log_every": 50},
            }
        )
        assert isinstance(job, PretrainJob)
        return job

    def _finetune(self, task: Task, how: Finetuning) -> dict[str, float]:
        found = run(self.finetuning(task, how), self.folder(task))
        views = parse_job(
            {
                "kind": "evaluate",
                "source": str(self.folder(task)),
                "data": {"index": str(self._videos / "val.csv"), "num_clips": 5, "num_crops": 1},
            }
        )
        asked = self.out / "runs" / f"{task.name}-views"
        found["views_top1"] = run(views, asked)["top1"]
        for folder in (asked, self.folder(task)):
            shutil.rmtree(folder)
        return found

    def finetuning(self, task: Task, how: Finetuning) -> FinetuneJob:
        """The job of a finetuning."""
        steps_per_epoch = how.labels * 8 // 32
        epochs = how.times * STEPS // steps_per_epoch
        init = None if task.arm == "scratch" else str(self.folder(Task(task.arm, task.seed)))
        job = parse_job(
            {
                "kind": "finetune",
                "seed": task.seed,
                "init": init,
                "model": {"name": MODEL, "init_scale": 1.0},
                "data": {
                    "index": str(self._index(how.labels)),
                    "val_index": str(self._videos / "val.csv"),
                    "clip": CLIP,
                    "crop_area": [0.5, 1.0],
                    "augment": {"rand_augment": {} if how.rand_augment else None},
                    "cache": "memory",
                },
                "optim": {**_optim(epochs), "layer_decay": 0.9},
                "run": {"checkpoint_every": epochs, "log_every": 50},
            }
        )
        assert isinstance(job, FinetuneJob)
        return job

    @property
    def _videos(self) -> Path:
        return self.out / "videos"

    def _index(self, per_class: int) -> Path:
        return self._videos / f"train-{per_class}.csv"

    @property
    def _many(self) -> Path:
        return self.out / "many.csv"

    def prepare(self) -> Resident:
        """Makes the videos, and indexes with fewer and fewer labels of each class."""
        few, many = 2 * self.draw, 2 * self.draw + 1
        synthesise(self._videos, per_class=ALL, val_per_class=self.held_out, seed=few)
        synthesise(self.out / "more", per_class=MORE, val_per_class=1, seed=many)
        rows = _rows(self._videos / "train.csv")
        for count in LABELS_PER_CLASS:
            seen = Counter[str]()
            kept = []
            for path, label in rows:
                seen[label] += 1
                if seen[label] <= count:
                    kept.append(f"{path},{label}")
            write_atomic(self._index(count), "\n".join(["path,label", *kept]) + "\n")
        unlabelled = _below("more", _rows(self.out / "more" / "train.csv"))
        pretrained_on = [*_below("videos", rows), *unlabelled]
        everything = [*pretrained_on, *_below("videos", _rows(self._videos / "val.csv"))]
        for file, paths in ((self._many, pretrained_on), (self.out / "everything.csv", everything)):
            write_atomic(file, "\n".join(["path", *paths]) + "\n")
        return Resident(self.out / "everything.csv", self.out, size=CLIP["size"], workers=2)

    def table(self) -> str:
        """Top-1 on the held-out videos, each seed."""
        heads = [how.name for how in self.finetunings]
        heads += [f"{LONGEST.name}, 5 views"] if LONGEST in self.finetunings else []
        heads += ["kNN", "linear", "attentive"]
        rows = ["| pretraining | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        for arm in self.arms:
            cells = [self._cell(arm, how, "top1") for how in self.finetunings]
            if LONGEST in self.finetunings:
                cells.append(self._cell(arm, LONGEST, "views_top1"))
            cells += [self._cell(arm, None, f"{p}_top1") for p in ("knn", "linear", "attentive")]
            rows.append(f"| {arm} | {' | '.join(cells)} |")
        return "\n".join(rows)

    def _cell(self, arm: str, how: Finetuning | None, figure: str) -> str:
        files = [self.result(Task(arm, seed, how)) for seed in range(self.seeds)]
        found: list[Mapping[str, float]] = [json.loads(f.read_text()) for f in files if f.exists()]
        return ", ".join(f"{values[figure]:.3f}" for values in found if figure in values)


def _rows(index: Path) -> list[tuple[str, str]]:
    """Paths and labels."""
    with open(index, newline="") as file:
        return [(path, label) for path, label in list(csv.reader(file))[1:]]


def _below(folder: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    """Paths from the folder above on."""
    return [f"{folder}/{path}" for path, _ in rows]


def _optim(epochs: int) -> dict[str, float]:
    return {
        "base_lr": 8e-3,
        "batch_size": 32,
        "epochs": epochs,
        "warmup_epochs": epochs // 10,
    }


def main(argv: Sequence[str]) -> int:
    """Runs what is not done yet, then prints the table; 1 if a task failed."""
    names = {how.name: how for how in FINETUNINGS}
    parser = argparse.ArgumentParser(prog="python -m bench.generated", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--arms", nargs="+", choices=PRETRAININGS, default=list(PRETRAININGS))
    parser.add_argument(
        "--finetunings", nargs="*", choices=names, default=list(names), help="some of all"
    )
    parser.add_argument("--draw", type=int, default=0, help="which videos, of all sets there are")
    parser.add_argument("--held-out", type=int, default=25, help="videos of each class")
    parser.add_argument("--processes", type=int, default=1, help="that share the device")
    parser.add_argument("--minutes", type=float, default=1e6, help="no task starts after this")
    arguments = parser.parse_args(argv)
    study = Study(
        arguments.out.absolute(),
        arguments.seeds,
        arms=arguments.arms,
        finetunings=[names[name] for name in arguments.finetunings],
        draw=arguments.draw,
        held_out=arguments.held_out,
    )
    failed = work_through(
        study.plan(),
        study.do,
        study.result,
        begin=study.prepare().install,
        processes=arguments.processes,
        minutes=arguments.minutes,
    )
    print(study.table(), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
