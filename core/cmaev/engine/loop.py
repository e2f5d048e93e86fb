"""The training loop, for every task, on one process or many.

A run is exact: the order of samples depends on (seed, epoch) alone, a checkpoint holds the random
state and the position in the epoch, so a resumed run repeats the uninterrupted one.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Literal, Protocol

from torch import nn

from cmaev.data.quarantine import Quarantine
from cmaev.engine.bad_videos import BadVideoReport
from cmaev.engine.compilation import attention_backend, begin_step, compile_training
from cmaev.engine.distributed import World, no_sync
from cmaev.engine.events import EventLog, MetricLog
from cmaev.engine.feed import DeviceFeed
from cmaev.engine.optim import build_optimizer, set_lr
from cmaev.engine.precision import autocast, resolve
from cmaev.engine.progress import ProgressDisplay
from cmaev.engine.saving import Saving, diverged
from cmaev.engine.sharding import shard
from cmaev.engine.signals import StopRequest
from cmaev.engine.update import RECENT_STEPS, Update, backward
from cmaev.engine.validation import Validation, as_metrics
from cmaev.engine.window import Window
from cmaev.tasks.base import Batch, Task
from cmaev_spec.exits import BadInput
from cmaev_spec.optim import OptimSpec
from cmaev_spec.resources import RunControlSpec
from cmaev_spec.rundir import RunDir

logger = logging.getLogger(__name__)


Status = Literal["finished", "stopped"]


class Loader(Protocol):
    """Micro-batches of an epoch, from any position on, and the bad videos among them."""

    quarantine: Quarantine

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of `epoch` after its first `start` samples, counted over all processes."""
        ...


class Trainer:
    """Runs a task to its end, or until it is asked to stop."""

    def __init__(
        self,
        task: Task,
        loader: Loader,
        *,
        optim: OptimSpec,
        control: RunControlSpec,
        steps_per_epoch: int,
        run: RunDir,
        spec_hash: str,
        world: World,
        events: EventLog,
        stop: StopRequest,
        validation: Validation | None = None,
        sharded: bool = False,
    ) -> None:
        self.task, self.loader = task, loader
        self.optim, self.control = optim, control
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = steps_per_epoch * optim.epochs
        self.world, self.events, self.stop = world, events, stop
        self.validation = validation
        self.figures: dict[str, float] = {}
        """Of the last evaluation."""
        task.module.to(world.device)
        if sharded:
            shard(task.module, device=world.device, processes=world.size)
        self.module = world.wrap(self._compiled())
        self.optimizer = build_optimizer(task.module, optim, layer_scale=task.layer_scale)
        self.update = Update(task.module, self.optimizer, clip_norm=optim.clip_grad)
        self.dtype = resolve(control.precision, world.device)
        self.metrics = MetricLog(run.metrics, enabled=world.main)
        self.feed = DeviceFeed(world.device)
        self.window = Window()
        self.bad_videos = BadVideoReport(loader.quarantine, world=world, events=events)
        self.saving = Saving(
            run,
            module=task.module,
            optimizer=self.optimizer,
            window=self.window,
            skips=self.update.skips,
            quarantine=loader.quarantine,
            control=control,
            spec_hash=spec_hash,
            world=world,
            events=events,
        )
        self.step, self._skipped = 0, 0
        self._clock, self._clock_step, self._waited = time.monotonic(), 0, 0.0

    def _compiled(self) -> nn.Module:
        """What runs on the device, as `run.compile` has it."""
        control = self.control
        inputs = self.task.inputs.to(self.world.device)
        if control.compile != "none":
            inputs.compile(dynamic=False)
        return compile_training(
            self.task.module,
            control.compile,
            cuda_graphs=control.cuda_graphs,
            whole=self.world.size == 1,
        )

    def fit(self, *, on_restored: Callable[[], None] | None = None) -> Status:
        """Trains from the newest checkpoint, or from the start, to the last step.

        Args:
            on_restored: called once the run is back where it was and can go on.

        Raises:
            BadInput: if it cannot go on, before anything is written.
        """
        on = "" if self.validation is None else self.validation.measured_on
        self.step, self.figures = self.saving.restore(measured_on=on)
        self._refuse_fewer_epochs()
        if on_restored is not None:
            on_restored()
        self._measure_unwritten()
        self._skipped, _ = self.update.skips.read()
        self.metrics.cut_back(self.step, measured=bool(self.figures))
        self.events.started(
            resumed_step=self.step,
            total_steps=self.total_steps,
            device=str(self.world.device),
            message=f"{self.task.name} on {self.world.size} process(es), {self.dtype}",
        )
        self._clock, self._clock_step = time.monotonic(), self.step
        self.module.train()
        with (
            ProgressDisplay(
                self.task.name, total=self.total_steps, enabled=self.world.main
            ) as display,
            attention_backend(self.control.attention, self.world.device),
            closing(self.saving),
        ):
            status: Status = "finished"
            if self._validation_due() and not self.figures:  # stopped or killed meanwhile
                status = self._validate(display)
            while status == "finished" and self.step < self.total_steps:
                status = self._train_epoch(display)
            self.saving.wait()
        return status

    def _refuse_fewer_epochs(self) -> None:
        """A run that is past its last step has weights that no run of so many epochs has."""
        if self.step > self.total_steps:
            reached = self.step / self.steps_per_epoch
            raise BadInput(
                f"optim.epochs: {self.optim.epochs} is fewer than the {reached:.4g} that this run "
                "has been trained for; ask for as many or more, or start a new run"
            )

    def _measure_unwritten(self) -> None:
        """Figures of the last step without their predictions are of another job's end, or middle.

        They are measured again.
        """
        if self.validation is None or self.step < self.total_steps:
            return
        if self.world.any(self.world.main and not self.validation.written()):
            self.figures = {}

    def _train_epoch(self, display: ProgressDisplay) -> Status:
        epoch, done = divmod(self.step, self.steps_per_epoch)
        batches = self.loader.epoch(epoch, start=done * self.optim.batch_size)
        for _ in range(done, self.steps_per_epoch):
            self._train_step(batches)
            self.step += 1
            if self.step % self.control.log_every == 0 or self.step == self.total_steps:
                self._log(display)
            if self.world.any(self.stop.requested or self.saving.failed):
                self.saving.wait()
                if self.step < self.total_steps:
                    self._save()
                    return "stopped"
        due = (epoch + 1) % self.control.checkpoint_every == 0 or self.step == self.total_steps
        if due or self._validation_due():
            self._save()
        return self._validate(display) if self._validation_due() else "finished"

    def _validation_due(self) -> bool:
        epoch, inside = divmod(self.step, self.steps_per_epoch)
        if self.validation is None or inside or epoch == 0:
            return False
        return self.validation.due(epoch, epochs=self.optim.epochs)

    def _validate(self, display: ProgressDisplay) -> Status:
        """Measures the model of the newest checkpoint, and notes there how good it is."""
        assert self.validation is not None
        begin = time.monotonic()
        with display.paused():
            figures = self.validation.measure(self.step == self.total_steps)
        self._clock += time.monotonic() - begin
        if figures is None:
            return "stopped"
        self.figures, values = figures, as_metrics(figures)
        epoch = self.step / self.steps_per_epoch
        self.metrics.append({"step": self.step, "epoch": epoch, **values})
        self.events.metric(self.step, values)
        on = self.validation.measured_on
        self.saving.add_figures(self.step, figures, measured_on=on)
        return "finished"

    def _train_step(self, batches: Iterator[Batch]) -> None:
        accumulate = self.optim.accumulate
        begin_step(cuda_graphs=self.control.cuda_graphs)
        set_lr(self.optimizer, self.optim.lr_at(self.step, steps_per_epoch=self.steps_per_epoch))
        self.update.begin()
        for micro in range(accumulate):
            batch = self._next(batches)
            with no_sync(self.module, last=micro == accumulate - 1):
                with autocast(self.dtype, self.world.device):
                    losses = self.task.step(self.module, batch)
                backward(losses["loss"], accumulate=accumulate)
            self.window.add(losses)
        taken, norm = self.update.finish(self.step)
        self.window.add({"grad_norm": norm})
        self.task.after_step(self.step, total_steps=self.total_steps, taken=taken)

    def _next(self, batches: Iterator[Batch]) -> Batch:
        start = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - start
        return self.feed(batch)

    def _log(self, display: ProgressDisplay) -> None:
        means = self.window.take(self.world)
        means["skipped_steps"] = float(self._count_skipped())
        means["bad_videos"] = float(self.bad_videos.share())
        elapsed = max(time.monotonic() - self._clock, 1e-9)
        steps = self.step - self._clock_step
        speed = steps * self.optim.batch_size / elapsed
        epoch = self.step / self.steps_per_epoch
        lr = self.optim.lr_at(self.step - 1, steps_per_epoch=self.steps_per_epoch)
        row = {"step": self.step, "epoch": epoch, "lr": lr, **means}
        timing = {"clips_per_second": speed, "data_wait": self._waited / elapsed}
        self.metrics.append({**row, **timing})
        self.events.metric(self.step, {"lr": lr, **means, **timing})
        self.events.progress(
            self.task.name,
            step=self.step,
            total_steps=self.total_steps,
            epoch=epoch,
            clips_per_second=speed,
            eta_seconds=(self.total_steps - self.step) * elapsed / max(1, steps),
        )
        display.update(
            self.step,
            note=f"loss {means.get('loss', math.nan):.3f}  lr {lr:.1e}  "
            f"norm {means.get('grad_norm', math.nan):.2g}  {speed:.0f} clips/s  "
            f"data {self._waited / elapsed:.0%}",
        )
        self._clock, self._clock_step, self._waited = time.monotonic(), self.step, 0.0

    def _count_skipped(self) -> int:
        """Steps that were left out since the start of the run; tells of new ones.

        Raises:
            FloatingPointError: if they are too many of the last ones.
        """
        total, recent = self.update.skips.read()
        limit = self.control.max_nonfinite_steps
        if recent > limit:
            what = (
                f"{recent} of the last {RECENT_STEPS} steps had a loss or a gradient that is not "
                f"finite, more than run.max_nonfinite_steps ({limit}),"
            )
            raise FloatingPointError(diverged(what, step=self.step))
        if total > self._skipped:
            what = f"{total - self._skipped} steps up to step {self.step} were left out"
            self.events.warning(f"{what}: their loss or gradient is not finite; {total} so far")
        self._skipped = total
        return total

    def _save(self) -> None:
        self._count_skipped()
        self.bad_videos.share()
        self.saving.save(self.step, epoch=self.step / self.steps_per_epoch)
