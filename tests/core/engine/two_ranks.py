"""Short pretraining runs in one process, or as one of two: RANK STORE RUNS as arguments.

RUNS is a JSON list of (directory, case).

Videos are noise that depends on the step alone; each process takes its share of the batch.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from cmaev.data.quarantine import Quarantine
from cmaev.engine.distributed import World
from cmaev.engine.events import EventLog
from cmaev.engine.loop import Trainer
from cmaev.engine.signals import StopRequest
from cmaev.models import create_pretraining_model
from cmaev.tasks.pretrain import PretrainTask
from cmaev_spec.model import ObjectiveSpec
from cmaev_spec.optim import OptimSpec
from cmaev_spec.resources import RunControlSpec
from cmaev_spec.rundir import RunDir

CPU = torch.device("cpu")
BATCH, STEPS = 8, 3


@dataclass(frozen=True)
class Case:
    """What a run is like."""

    model: str = "cmaev_vit_nano_patch8_32"
    accumulate: int = 1
    sharded: bool = False
    compile: str = "none"
    checkpointing: bool = False
    symmetric: bool = False
    clip_grad: float | None = None
    bad_step: int | None = None
    last_step: int | None = None


class Noise:
    """Micro-batches of this process: uint8 views (B, T, H, W, C), masks (B, N), True = hidden."""

    def __init__(self, world, *, accumulate, stop, last_step):
        self.world, self.accumulate = world, accumulate
        self.stop, self.last_step = stop, last_step
        self.quarantine = Quarantine(videos=BATCH * STEPS)

    def epoch(self, epoch, start=0):
        for step in range(start // BATCH, STEPS):
            self.stop.requested = step == self.last_step
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            views = torch.randint(0, 256, (2, BATCH, 8, 32, 32, 3), generator=generator)
            order = torch.rand(BATCH, 16, generator=generator).argsort(1)
            mask = (order >= 4).repeat(1, 4)
            for micro in range(self.accumulate):
                # The samples of a micro-batch lie beside each other, those of a process apart.
                share = BATCH // self.accumulate
                mine = slice(micro * share + self.world.rank, (micro + 1) * share, self.world.size)
                online, target = views[:, mine].to(torch.uint8)
                yield {"online": online, "target": target, "mask": mask[mine]}


class SpoiltTask(PretrainTask):
    """The loss of the last process is not a number in one step, counted from 0."""

    def __init__(self, module, *, bad_step, spoils, **options):
        super().__init__(module, **options)
        self.bad_step, self.spoils, self.count = bad_step, spoils, 0

    def step(self, module, batch):
        losses = super().step(module, batch)
        if self.spoils and self.count == self.bad_step:
            losses["loss"] = losses["loss"] * torch.nan
        self.count += 1
        return losses


def train(path, case, world):
    """Runs the case in a directory, to its end."""
    path.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = create_pretraining_model(case.model, symmetric=case.symmetric)
    model.set_grad_checkpointing(case.checkpointing)
    task = SpoiltTask(
        model,
        bad_step=case.bad_step,
        spoils=world.rank == world.size - 1,
        objective=ObjectiveSpec(mask_ratio=0.75, momentum=0.9),
    )
    stop = StopRequest()
    trainer = Trainer(
        task,
        Noise(world, accumulate=case.accumulate, stop=stop, last_step=case.last_step),
        optim=OptimSpec(
            # A large epsilon: AdamW turns rounding errors of tiny gradients into whole steps.
            base_lr=0.0032,
            eps=1e-4,
            batch_size=BATCH,
            epochs=1,
            accumulate=case.accumulate,
            clip_grad=case.clip_grad,
        ),
        control=RunControlSpec(log_every=1, compile=case.compile),
        steps_per_epoch=STEPS,
        run=RunDir(path),
        spec_hash="0",
        world=world,
        events=EventLog(RunDir(path), enabled=world.main),
        stop=stop,
        sharded=case.sharded,
    )
    return trainer.fit()


def main():
    rank, store, runs = int(sys.argv[1]), *sys.argv[2:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for folder, case in json.loads(runs):
        train(Path(folder), Case(**case), World(rank=rank, size=2, device=CPU))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # its group's threads, which live on, could abort the usual way out
