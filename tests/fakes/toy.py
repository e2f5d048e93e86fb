"""A toy task, numbers to train it on, and the loop around them."""

import torch
from torch import nn

from cmaev.data.quarantine import Quarantine
from cmaev.engine.checkpoint import load_model_state, newest_checkpoint
from cmaev.engine.distributed import World
from cmaev.engine.events import EventLog, read_metrics
from cmaev.engine.loop import Trainer
from cmaev.engine.signals import StopRequest
from cmaev_spec.optim import OptimSpec
from cmaev_spec.resources import FinetuneControlSpec, RunControlSpec
from cmaev_spec.rundir import RunDir

STEPS_PER_EPOCH, EPOCHS, BATCH = 5, 3, 4


class NoisyTask:
    """A regression with dropout, so that the random state matters."""

    name = "noisy"

    def __init__(self):
        torch.manual_seed(0)
        self.inputs = nn.Identity()
        self.module = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def step(self, module, batch):
        loss = (module(batch["x"]).squeeze(1) - batch["y"]).square().mean()
        return {"loss": loss}

    def layer_scale(self, name):
        return 1.0

    def after_step(self, step, *, total_steps, taken):
        pass


class Numbers:
    """Micro-batches that depend on epoch and position alone; may raise a stop at one of them."""

    def __init__(self, *, size=BATCH, per_epoch=STEPS_PER_EPOCH, stop=None, stop_at=None):
        self.size, self.per_epoch = size, per_epoch
        self.stop, self.stop_at = stop, stop_at
        self.quarantine = Quarantine(videos=size * per_epoch)

    def epoch(self, epoch, start=0):
        for position in range(start // self.size, self.per_epoch):
            rows = torch.arange(position * self.size, (position + 1) * self.size)
            x = torch.sin(rows[:, None] * torch.tensor([1.0, 2.0, 3.0]) + epoch)
            if self.stop is not None and (epoch, position) == self.stop_at:
                self.stop.requested = True
            yield {"x": x, "y": x.sum(dim=1)}


def train(path, *, accumulate=1, stop_at=None, task=None, validation=None, **control):
    path.mkdir(exist_ok=True)
    run, stop = RunDir(path), StopRequest()
    loader = Numbers(
        size=BATCH // accumulate,
        per_epoch=STEPS_PER_EPOCH * accumulate,
        stop=stop,
        stop_at=stop_at,
    )
    optim = OptimSpec(
        base_lr=0.64, batch_size=BATCH, epochs=EPOCHS, warmup_epochs=1, accumulate=accumulate
    )
    kind = RunControlSpec if validation is None else FinetuneControlSpec
    trainer = Trainer(
        task or NoisyTask(),
        loader,
        optim=optim,
        control=kind(**{"log_every": 2, **control}),
        steps_per_epoch=STEPS_PER_EPOCH,
        run=run,
        spec_hash="0",
        world=World(rank=0, size=1, device=torch.device("cpu")),
        events=EventLog(run),
        stop=stop,
        validation=validation,
    )
    return trainer.fit(), run


def result(run):
    weights = load_model_state(newest_checkpoint(run))
    losses = [
        (row["step"], row["epoch"], row["lr"], row.get("loss"))
        for row in read_metrics(run.metrics)
        if "lr" in row
    ]
    return weights, losses
