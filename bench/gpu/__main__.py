"""`PYTHONPATH=core python -m bench.gpu [--parts ceilings,pretrain] [--device cpu --quick]`."""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bench.gpu.card import attention, ceilings
from bench.gpu.exactness import exactness
from bench.gpu.finetuning import finetuning
from bench.gpu.harness import Bench
from bench.gpu.inputs import input_path
from bench.gpu.levers import levers
from bench.gpu.pretraining import batches, forms, sizes
from bench.gpu.profiling import profiling
from bench.gpu.results import Report, header
from bench.gpu.runtime import onnx_runtime

PARTS: dict[str, Callable[[Bench], None]] = {
    "ceilings": ceilings,
    "pretrain": forms,
    "exact": exactness,
    "input": input_path,
    "sizes": sizes,
    "batches": batches,
    "attention": attention,
    "finetune": finetuning,
    "onnx": onnx_runtime,
    "levers": levers,
    "profile": profiling,
}


def expression(text: str) -> re.Pattern[str]:
    """A regular expression from the command line."""
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None


def use_device(name: str) -> torch.device:
    """The device called `cpu`, `cuda` or `cuda:1`; on a GPU, streams and events are made there.

    Raises:
        ValueError: if there is none.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"--device: {name!r} is none of cpu, cuda, cuda:1")
    device = torch.device(name)
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise ValueError(f"--device: PyTorch {torch.__version__} finds {count} CUDA devices")
        torch.cuda.set_device(device.index or 0)
    return device


def main(argv: Sequence[str]) -> int:
    """Runs the parts; 1 if a case failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--quick", action="store_true", help="in small: smallest models, no figures"
    )
    parser.add_argument(
        "--cases", type=expression, default="", help="only those whose name this expression finds"
    )
    parser.add_argument("--minutes", type=float, default=8.5, help="no case starts after this")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="a folder of its own")
    arguments = parser.parse_args(argv)
    chosen = arguments.parts.split(",")
    if unknown := [part for part in chosen if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    if arguments.device == "cpu" and not arguments.quick:
        parser.error("no GPU was asked for or found, and a CPU would take hours; add --quick")
    try:
        device = use_device(arguments.device)
        report = Report(arguments.out, header(device, argv, quick=arguments.quick))
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--out: {error}")
    bench = Bench(
        device,
        arguments.quick,
        report,
        deadline=time.monotonic() + 60 * arguments.minutes,
        wanted=arguments.cases,
    )
    try:
        for part in chosen:
            PARTS[part](bench)
    finally:
        print(report.write_tables(), flush=True)
    if not report.rows:
        parser.error(f"--cases: none of these parts has {arguments.cases.pattern!r} in its name")
    return int(any(row.status == "failed" for row in report.rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
