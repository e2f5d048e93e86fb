"""The study as tasks that wait for each other, and what each of them does."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ceiling.arms import Source, evaluation, finetuning, pretraining, probing
from bench.ceiling.clips import FOLDS, Clip, read_clips
from bench.ceiling.figures import macro_recall
from bench.ceiling.running import predictions, run, save_encoder

from cmaev_spec.files import write_atomic

ARMS = {"scratch": None, "reconstruction": 0.0, "cmaev": 1.0}
"""The weight of the contrast in pretraining; None where there is none."""
GRID_FOLD = 1
WEIGHTS, SHIFTS = (0.0, 0.5, 1.0), (1, 2, 4)
"""Of the contrast; largest shifts in strides."""


@dataclass(frozen=True)
class Task:
    """Something to train and measure; `needs` names what must be done before."""

    kind: str
    arm: str
    fold: int
    """Whose clips are never trained on."""
    seed: int = 0
    finetune_seed: int = 0
    inner: int = -1
    """The training fold that a setting is chosen on."""
    lr: float = 0.0
    layer_decay: float = 0.0
    contrast_weight: float = 0.0
    shift: int = 0

    @property
    def name(self) -> str:
        """Names its files."""
        parts = [self.kind, self.arm, f"fold{self.fold}", f"seed{self.seed}"]
        if self.kind == "tune":
            parts += [f"inner{self.inner}", f"lr{self.lr:g}", f"decay{self.layer_decay:g}"]
        if self.kind == "final":
            parts += [f"run{self.finetune_seed}"]
        if self.kind == "grid":
            parts += [f"weight{self.contrast_weight:g}", f"shift{self.shift}"]
        return "-".join(parts)


@dataclass(frozen=True)
class Study:
    """Where everything is."""

    source: Source
    out: Path

    def result(self, task: Task) -> Path:
        """What a task found."""
        return self.out / "tasks" / f"{task.name}.json"

    def folder(self, task: Task) -> Path:
        """The run of a task."""
        return self.out / "runs" / task.name

    def weights(self, task: Task) -> Path:
        """The encoder that a pretraining leaves."""
        return self.out / "weights" / f"{task.name}.safetensors"

    def plan(self, folds: tuple[int, ...], *, grid: bool) -> dict[Task, list[Task]]:
        """All tasks, with what each needs."""
        needs: dict[Task, list[Task]] = {}
        for fold in folds:
            for seed in range(self.source.budget.pretrain_seeds):
                for arm, weight in ARMS.items():
                    if weight is not None:
                        needs[Task("pretrain", arm, fold, seed)] = []
        for fold in folds:
            for arm in ARMS:
                needs |= self._finetunings(arm, fold)
            for arm in ("untrained", "reconstruction", "cmaev"):
                for seed in range(self.source.budget.pretrain_seeds):
                    before = [] if arm == "untrained" else [Task("pretrain", arm, fold, seed)]
                    needs[Task("probe", arm, fold, seed)] = before
        if grid:
            needs |= {task: [] for task in self._grid()}
        return needs

    def _finetunings(self, arm: str, fold: int) -> dict[Task, list[Task]]:
        """Settings are tried on some of the training folds; the best trains on all three."""
        budget = self.source.budget
        before = [] if arm == "scratch" else [Task("pretrain", arm, fold, 0)]
        tries = dict.fromkeys(self._tries(arm, fold), before)
        finals = {}
        for seed in range(budget.pretrain_seeds):
            for again in range(budget.finetune_seeds):
                own = [] if arm == "scratch" else [Task("pretrain", arm, fold, seed)]
                task = Task("final", arm, fold, seed, finetune_seed=again)
                finals[task] = [*tries, *own]
        return {**tries, **finals}

    def _tries(self, arm: str, fold: int) -> Iterator[Task]:
        budget = self.source.budget
        for lr in budget.learning_rates:
            for decay in budget.layer_decays:
                for step in range(1, budget.inner_folds + 1):
                    inner = (fold + step) % len(FOLDS)
                    yield Task("tune", arm, fold, inner=inner, lr=lr, layer_decay=decay)

    def _grid(self) -> Iterator[Task]:
        for seed in range(self.source.budget.pretrain_seeds):
            for weight in WEIGHTS:
                for shift in SHIFTS if weight else SHIFTS[:1]:
                    yield Task(
                        "grid", "cmaev", GRID_FOLD, seed, contrast_weight=weight, shift=shift
                    )

    def do(self, task: Task) -> None:
        """Runs a task and writes down what came out."""
        work = {
            "pretrain": self._pretrain,
            "tune": self._tune,
            "final": self._final,
            "probe": self._probe,
            "grid": self._try_in_grid,
        }
        found = work[task.kind](task)
        self.result(task).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.result(task), json.dumps(found))

    def _pretrain(self, task: Task) -> dict[str, Any]:
        weight = ARMS[task.arm]
        assert weight is not None
        train = _others(task.fold)
        job = pretraining(self.source, train, seed=task.seed, contrast_weight=weight)
        figures = run(job, self.folder(task))
        self.weights(task).parent.mkdir(parents=True, exist_ok=True)
        save_encoder(self.folder(task), self.weights(task))
        shutil.rmtree(self.folder(task))
        return figures

    def _tune(self, task: Task) -> dict[str, Any]:
        train = [fold for fold in _others(task.fold) if fold != task.inner]
        return self._finetune(task, train, task.inner, lr=task.lr, layer_decay=task.layer_decay)

    def _final(self, task: Task) -> dict[str, Any]:
        lr, decay = self.chosen(task.arm, task.fold)
        found = self._finetune(task, _others(task.fold), task.fold, lr=lr, layer_decay=decay)
        return {**found, "lr": lr, "layer_decay": decay}

    def chosen(self, arm: str, fold: int) -> tuple[float, float]:
        """The learning rate and layer decay that were best on the inner folds, pooled."""
        tried: dict[tuple[float, float], list[Path]] = {}
        for task in self._tries(arm, fold):
            tried.setdefault((task.lr, task.layer_decay), []).append(self.result(task))
        clips = self.clips()
        return max(tried, key=lambda setting: macro_recall(tried[setting], clips))

    def clips(self) -> dict[str, Clip]:
        """By path, so that results of several machines can be put together."""
        return {clip.path: clip for clip in read_clips(self.source.data)}

    def _finetune(
        self, task: Task, train: list[int], test: int, *, lr: float, layer_decay: float
    ) -> dict[str, Any]:
        init = None
        if task.arm != "scratch":
            init = self.weights(Task("pretrain", task.arm, task.fold, task.seed))
        folder = self.folder(task)
        job = finetuning(
            self.source,
            train,
            test,
            init=init,
            seed=10 * task.seed + task.finetune_seed,
            lr=lr,
            layer_decay=layer_decay,
        )
        run(job, folder)
        tested = folder.with_name(f"{folder.name}-test")
        figures = run(evaluation(self.source, folder, test), tested)
        answers = predictions(tested / "predictions.csv", self.source.data)
        shutil.rmtree(folder)
        shutil.rmtree(tested)
        return {**figures, "paths": answers.paths, "probability": answers.probability}

    def _probe(self, task: Task) -> dict[str, Any]:
        init = None
        if task.arm != "untrained":
            init = self.weights(Task("pretrain", task.arm, task.fold, task.seed))
        train = _others(task.fold)
        return self._asked(task, probing(self.source, train, task.fold, init=init, seed=task.seed))

    def _try_in_grid(self, task: Task) -> dict[str, Any]:
        job = pretraining(
            self.source,
            _others(task.fold),
            seed=task.seed,
            contrast_weight=task.contrast_weight,
            shift=task.shift,
            epochs=self.source.budget.grid_epochs,
        )
        pretrained = self.folder(task).with_name(f"{task.name}-weights")
        losses = run(job, pretrained)
        train = _others(task.fold)
        found = self._asked(
            task,
            probing(self.source, train, task.fold, init=pretrained, seed=task.seed, knn_only=True),
        )
        shutil.rmtree(pretrained)
        return {**losses, **found}

    def _asked(self, task: Task, job: Any) -> dict[str, Any]:
        folder = self.folder(task)
        found: dict[str, Any] = dict(run(job, folder))
        for file in sorted(folder.glob("predictions-*.csv")):
            answers = predictions(file, self.source.data)
            found[file.stem.removeprefix("predictions-")] = {
                "paths": answers.paths,
                "probability": answers.probability,
            }
        shutil.rmtree(folder)
        return found


def _others(fold: int) -> list[int]:
    return [other for other in FOLDS if other != fold]
