"""What the training loop adds to a step: `python -m bench.loop [--model NAME] [--batch N]`.

A pretraining run as jobs start it, on batches that lie in memory. Its wall time is divided into
forward, backward, optimiser, moving average, waiting for data, and the rest: the norm of the
gradient, what leaves out steps that are not finite, means, schedules, logs. Prints a Markdown table
of shares of one run. On a CPU, where every call ends before the next begins.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import torch
from bench.steps import MASK_RATIO, tubes
from bench.timing import hardware

from cmaev.data.quarantine import Quarantine
from cmaev.engine import loop
from cmaev.engine.distributed import World
from cmaev.engine.events import EventLog
from cmaev.engine.loop import Trainer
from cmaev.engine.signals import StopRequest
from cmaev.models import CMAEV, create_pretraining_model
from cmaev.models.architectures import architecture
from cmaev.tasks.base import Batch
from cmaev.tasks.pretrain import PretrainTask
from cmaev_spec.model import ObjectiveSpec
from cmaev_spec.optim import OptimSpec
from cmaev_spec.resources import RunControlSpec
from cmaev_spec.rundir import RunDir

CPU = torch.device("cpu")
PARTS = {
    "forward": "views and losses of a micro-batch",
    "backward": "",
    "optimiser": "fused AdamW",
    "moving average": "of the target",
    "data wait": "until the next batch is there",
    "update": "of it: gradient norm, what leaves steps out",
    "window": "of it: means of losses",
    "logging": "of it: rows of metrics and events, progress",
    "freeing": "of it: what the step leaves: its graph and its batch",
}
WORK = ("forward", "backward", "optimiser", "moving average")
WITHIN = ("update", "window", "logging", "freeing")

P = ParamSpec("P")
R = TypeVar("R")


class Clock:
    """Seconds by part, and of the whole, since the steps that warm up."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.measured: Counter[str] = Counter()
        self._begin = self._end = time.perf_counter()

    def restart(self) -> None:
        """Forgets what there was until now."""
        self.seconds.clear()
        self._begin = time.perf_counter()

    def stop(self) -> None:
        """Keeps what was measured until now."""
        self.measured = Counter(self.seconds, all=time.perf_counter() - self._begin)

    def timed(self, part: str, work: Callable[P, R]) -> Callable[P, R]:
        """The same function, whose time counts for a part."""

        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            start = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self._end = time.perf_counter()
                self.seconds[part] += self._end - start

        return run

    def freed(self, step: Callable[P, R]) -> Callable[P, R]:
        """The same step, whose time after its last part goes into freeing its variables."""

        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            result = step(*args, **kwargs)
            self.seconds["freeing"] += time.perf_counter() - self._end
            return result

        return run


class InMemory:
    """The same few batches in turn; the clock runs between two of them."""

    def __init__(self, batches: Sequence[Batch], clock: Clock, *, warmup: int, steps: int) -> None:
        self.quarantine = Quarantine(videos=1)
        self._batches, self._clock = batches, clock
        self._warmup, self._steps = warmup, steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """`warmup` batches, `steps` that are measured, and one more."""
        for number in range(self._warmup + self._steps + 1):
            if number == self._warmup:
                self._clock.restart()
            if number == self._warmup + self._steps:
                self._clock.stop()
            begin = time.perf_counter()
            batch = self._batches[number % len(self._batches)]
            self._clock.seconds["data wait"] += time.perf_counter() - begin
            yield batch


def pretraining_batches(name: str, model: CMAEV, batch: int) -> list[Batch]:
    """Two batches as the loader gives them, without colours."""
    shape = architecture(name)
    size = (batch, shape.num_frames, shape.img_size, shape.img_size, 3)
    views = (torch.randint(0, 256, size, dtype=torch.uint8) for _ in itertools.count())
    return [
        {"online": next(views), "target": next(views), "mask": tubes(model, batch)}
        for _ in range(2)
    ]


@contextmanager
def taken_apart(trainer: Trainer, clock: Clock) -> Iterator[None]:
    """Measures the parts of a trainer's steps while it is entered."""
    task = trainer.task
    targets: list[tuple[object, str, str]] = [
        (task, "step", "forward"),
        (loop, "backward", "backward"),
        (trainer.optimizer, "step", "optimiser"),
        (task, "after_step", "moving average"),
        (trainer.update, "begin", "update"),
        (trainer.update, "finish", "update"),
        (trainer.window, "add", "window"),
        (trainer, "_log", "logging"),
    ]
    with ExitStack() as patches:
        for owner, name, part in targets:
            timed = clock.timed(part, getattr(owner, name))
            patches.enter_context(patch.object(owner, name, timed))
        step = clock.freed(trainer._train_step)
        patches.enter_context(patch.object(trainer, "_train_step", step))
        yield


def measure(name: str, *, batch: int, warmup: int, steps: int, log_every: int) -> Counter[str]:
    """Seconds of each part of `steps` steps."""
    torch.manual_seed(0)
    model = create_pretraining_model(name)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(folder)
        trainer = Trainer(
            PretrainTask(model, objective=ObjectiveSpec(mask_ratio=MASK_RATIO)),
            InMemory(pretraining_batches(name, model, batch), clock, warmup=warmup, steps=steps),
            optim=OptimSpec(base_lr=1e-3, batch_size=batch, epochs=1),
            control=RunControlSpec(log_every=log_every),
            steps_per_epoch=warmup + steps + 1,
            run=run,
            spec_hash="0",
            world=World(rank=0, size=1, device=CPU),
            events=EventLog(run),
            stop=StopRequest(),
        )
        with (
            taken_apart(trainer, clock),
            open(os.devnull, "w") as nowhere,
            redirect_stdout(nowhere),
        ):
            trainer.fit()
    seconds = clock.measured
    seconds["update"] -= seconds["optimiser"]
    return seconds


def table(seconds: Counter[str]) -> list[str]:
    """Shares of the whole as Markdown."""
    whole = seconds["all"]
    rest = whole - sum(seconds[part] for part in (*WORK, "data wait"))
    share = partial("{:.2%}".format)
    lines = ["| part | share of the time | |", "|---|---|---|"]
    for part in (*WORK, "data wait"):
        lines.append(f"| {part} | {share(seconds[part] / whole)} | {PARTS[part]} |")
    lines.append(f"| **the rest** | **{share(rest / whole)}** | the loop |")
    lines += [f"| {part} | {share(seconds[part] / whole)} | {PARTS[part]} |" for part in WITHIN]
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.loop", description=__doc__)
    parser.add_argument("--model", default="cmaev_vit_nano_patch8_32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100, help="that are measured")
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    seconds = measure(
        options.model,
        batch=options.batch,
        warmup=options.warmup,
        steps=options.steps,
        log_every=options.log_every,
    )
    step = 1000 * seconds["all"] / options.steps
    print(f"{options.model}, batch {options.batch}: {step:.0f} ms a step; {hardware(CPU)}\n")
    print("\n".join(table(seconds)))


if __name__ == "__main__":
    main()
