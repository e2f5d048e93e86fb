"""What a checkpoint costs the training: `python -m bench.saving [--model NAME] [--rounds N]`.

Saves a pretraining model with its optimiser within the training and beside it, by turns, and prints
a Markdown table of medians: how long the training waits, device included, and when the checkpoint
is whole. Between the two the training goes on.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import nn

from cmaev.data.quarantine import Quarantine
from cmaev.engine.distributed import World
from cmaev.engine.events import EventLog
from cmaev.engine.optim import adamw
from cmaev.engine.saving import Saving
from cmaev.engine.update import SkippedSteps
from cmaev.engine.window import Window
from cmaev.models import create_pretraining_model
from cmaev_spec.resources import RunControlSpec
from cmaev_spec.rundir import RunDir


def saving(
    module: nn.Module, optimizer: torch.optim.AdamW, folder: Path, *, beside: bool, device: str
) -> Saving:
    """What the loop saves with."""
    folder.mkdir()
    run = RunDir(folder)
    return Saving(
        run,
        module=module,
        optimizer=optimizer,
        window=Window(),
        skips=SkippedSteps(torch.device(device)),
        quarantine=Quarantine(videos=1),
        control=RunControlSpec(async_checkpoints=beside, keep_checkpoints=1),
        spec_hash="0",
        world=World(rank=0, size=1, device=torch.device(device)),
        events=EventLog(run),
    )


def measure(saver: Saving, step: int, *, device: str) -> tuple[float, float]:
    """Seconds until the training can go on, and until the checkpoint is whole."""
    begin = time.perf_counter()
    saver.save(step, epoch=float(step))
    if device == "cuda":
        torch.cuda.synchronize()
    waits = time.perf_counter() - begin
    saver.wait()
    return waits, time.perf_counter() - begin


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m bench.saving", description=__doc__)
    parser.add_argument("--model", default="cmaev_vit_small_patch16_224")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    device = arguments.device

    torch.manual_seed(0)
    module = create_pretraining_model(arguments.model).to(device)
    optimizer = adamw(module, weight_decay=0.05, betas=(0.9, 0.95), eps=1e-8)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    figures: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        savers = {
            beside: saving(
                module, optimizer, Path(folder) / str(beside), beside=beside, device=device
            )
            for beside in figures
        }
        with closing(savers[False]), closing(savers[True]):
            for step in range(arguments.rounds + 1):  # the first warms up
                for beside, saver in savers.items():
                    taken = measure(saver, step, device=device)
                    if step:
                        figures[beside].append(taken)
        size = sum(file.stat().st_size for file in (Path(folder) / "True").rglob("*.*"))
    print(f"{arguments.model}, {size / 2**20:.0f} MiB, {device}, {arguments.rounds} rounds\n")
    print("| written | training waits (s) | whole after (s) |\n|---|---|---|")
    for beside, name in ((False, "within the training"), (True, "beside it")):
        waits, whole = (statistics.median(column) for column in zip(*figures[beside], strict=True))
        print(f"| {name} | {waits:.3f} | {whole:.3f} |")


if __name__ == "__main__":
    main()
