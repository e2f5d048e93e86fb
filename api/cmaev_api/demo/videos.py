"""What the demo works on: generated videos or the user's own, and the jobs made for them."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmaev_spec.exits import BadInput
from cmaev_spec.job import JobSpec, parse_job
from cmaev_spec.preset import load_preset

PRETRAIN_PRESET = "nano-pretrain"
FINETUNE_PRESET = "nano-finetune"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the user chose on the command line; None leaves it to the preset."""

    data: Path | None = None
    val_data: Path | None = None
    root: Path | None = None
    stride: int = 2
    pretrain_epochs: int | None = None
    finetune_epochs: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Videos:
    """Indexes of training and held-out videos."""

    train: Path
    val: Path
    root: Path | None = None

    @property
    def folder(self) -> Path:
        """What relative paths of the indexes start from."""
        return self.root or self.val.parent


def prepare_videos(choice: Choice, *, out: Path) -> Videos:
    """Generates videos, or splits the user's index where no held-out one is given.

    Raises:
        BadInput: with the message of the command that refused, or if there are too few videos.
    """
    if choice.data is None:
        if choice.val_data is not None:
            raise BadInput("--val-data needs --data")
        folder = out / "videos"
        _cmaev("data", "synth", str(folder), "--seed", str(choice.seed))
        return Videos(train=folder / "train.csv", val=folder / "val.csv")
    root = choice.root.absolute() if choice.root else None
    if choice.val_data is not None:
        require_a_batch(choice.data)
        return Videos(train=choice.data.absolute(), val=choice.val_data.absolute(), root=root)
    folder = out / "split"
    options = ["--root", str(root)] if root else []
    _cmaev("data", "split", str(choice.data), "--out", str(folder), "--seed", "0", *options)
    require_a_batch(folder / "train.csv", held_out=" after a fifth of --data was held out")
    return Videos(train=folder / "train.csv", val=folder / "val.csv")


def require_a_batch(index: Path, *, held_out: str = "") -> None:
    """Checks that the training videos fill a batch of every preset.

    Raises:
        BadInput: if they do not, or the index cannot be read.
    """
    needed = max(
        load_preset(name)["optim"]["batch_size"] for name in (PRETRAIN_PRESET, FINETUNE_PRESET)
    )
    count = _count_rows(index)
    if count < needed:
        raise BadInput(
            f"--data: {index} lists {count} training videos{held_out}; the demo needs at least "
            f"{needed}, a whole batch"
        )


def _count_rows(index: Path) -> int:
    """Rows of an index, less a header that names a column `path`."""
    try:
        lines = [
            line for line in index.read_text(encoding="utf-8-sig").splitlines() if line.strip()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--data: cannot read {index}: {error}") from None
    header = bool(lines) and "path" in re.split(r'[\s,;"]+', lines[0].lower())
    return len(lines) - header


def pretrain_job(choice: Choice, videos: Videos) -> JobSpec:
    """Pretraining on the training videos, labels unseen."""
    spec = _preset(PRETRAIN_PRESET, choice, epochs=choice.pretrain_epochs)
    spec["data"] |= {"index": str(videos.train), "root": _text(videos.root)}
    return parse_job({**spec, "name": "demo: pretraining"})


def finetune_job(choice: Choice, videos: Videos, *, init: str | None) -> JobSpec:
    """Finetuning from a pretraining job, or from scratch at the same budget."""
    spec = _preset(FINETUNE_PRESET, choice, epochs=choice.finetune_epochs)
    spec["data"] |= {
        "index": str(videos.train),
        "val_index": str(videos.val),
        "root": _text(videos.root),
    }
    name = "demo: from scratch" if init is None else "demo: finetuning"
    return parse_job({**spec, "init": init, "name": name})


def export_job(source: str, *, model_name: str) -> JobSpec:
    """Export of the finetuned run."""
    return parse_job(
        {"kind": "export", "source": source, "model_name": model_name, "name": "demo: export"}
    )


def _preset(name: str, choice: Choice, *, epochs: int | None) -> dict[str, Any]:
    spec = load_preset(name)
    spec["seed"] = choice.seed
    spec["data"]["clip"]["stride"] = choice.stride
    if epochs is not None:
        spec["optim"]["epochs"] = epochs
    return spec


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _cmaev(*arguments: str) -> None:
    """Runs a command of the library, which this package does not import."""
    command = [sys.executable, "-m", "cmaev", *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        lines = result.stdout.strip().splitlines() or [f"exit code {result.returncode}"]
        raise BadInput(lines[-1].removeprefix("error: "))
