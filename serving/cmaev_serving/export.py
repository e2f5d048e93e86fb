"""Exports a finetuned run to ONNX and to a TorchServe archive.

`main` is the runner of export jobs; `export_run` is the function behind it and `cmaev export`.
`python -m cmaev_serving.export --run-dir D` runs a job under the exit codes of `cmaev.launch`.

Files get their final names only after the exported model was shown to compute what PyTorch
computes; after a failure nothing is left.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cmaev import launch
from cmaev.checkpoints import LoadedClassifier, load_classifier
from cmaev.engine.events import EventLog
from cmaev_serving.archive import build_archive
from cmaev_serving.graph import FramesToLogits, write_metadata, write_onnx
from cmaev_serving.metadata import ModelMetadata, Provenance, Sampling
from cmaev_serving.parity import ParityReport, check_parity
from cmaev_serving.runtime import Session
from cmaev_spec import __version__
from cmaev_spec.exits import EXIT_OK, BadInput
from cmaev_spec.files import sync_directory, write_atomic
from cmaev_spec.job import ExportJob, Which
from cmaev_spec.rundir import RunDir, resolve_run
from cmaev_spec.wire import content_hash

STAGES = ("load", "onnx", "parity", "archive")
ONNX_NAME = "model.onnx"
PARITY_NAME = "parity.json"
_SCRATCH = ".export-"


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What an export wrote."""

    onnx: Path
    parity_file: Path
    archive: Path | None
    parity: ParityReport
    metadata: ModelMetadata

    @property
    def summary(self) -> dict[str, float]:
        """The figures worth keeping."""
        figures = {
            "onnx_bytes": float(self.onnx.stat().st_size),
            "parity_max_difference": self.parity.max_difference,
            "classes": float(len(self.metadata.labels)),
        }
        if self.archive is not None:
            figures["archive_bytes"] = float(self.archive.stat().st_size)
        return figures


def export_run(
    run: RunDir,
    out: Path,
    *,
    name: str,
    num_clips: int = 1,
    which: Which = "newest",
    archive: bool = True,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> ExportResult:
    """Writes `model.onnx`, `parity.json` and, if asked for, `<name>.mar` into `out`.

    Args:
        run: directory of a finetuned run.
        out: folder to write into, made if it is not there.
        name: model name, also of the archive.
        num_clips: views in time that an answer will average.
        which: of the run's checkpoints.
        archive: whether to build the TorchServe archive.
        on_stage: told the name of each stage as it begins.

    Raises:
        BadInput: if the run cannot be exported.
        ParityError: if the exported model computes something else.
    """
    on_stage("load")
    loaded = load_classifier(run, which=which)
    out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out, prefix=_SCRATCH))
    try:
        parity, metadata = _export(loaded, scratch / ONNX_NAME, name, num_clips, on_stage)
        write_atomic(scratch / PARITY_NAME, parity.model_dump_json(indent=1) + "\n")
        names = [ONNX_NAME, PARITY_NAME]
        if archive:
            on_stage("archive")
            names.append(f"{name}.mar")
            build_archive(scratch / ONNX_NAME, scratch / names[-1], name=name)
        for item in names:
            os.replace(scratch / item, out / item)
        sync_directory(out)
    finally:
        shutil.rmtree(scratch)
    return ExportResult(
        onnx=out / ONNX_NAME,
        parity_file=out / PARITY_NAME,
        archive=out / names[-1] if archive else None,
        parity=parity,
        metadata=metadata,
    )


def _export(
    loaded: LoadedClassifier,
    path: Path,
    name: str,
    num_clips: int,
    on_stage: Callable[[str], None],
) -> tuple[ParityReport, ModelMetadata]:
    clip = loaded.job.data.clip
    shape = (clip.frames, clip.size, clip.size, 3)
    module = FramesToLogits(loaded.model).eval()
    on_stage("onnx")
    write_onnx(module, path, clip_shape=shape)
    on_stage("parity")
    parity = check_parity(module.logits, Session(path).logits, shape)
    metadata = ModelMetadata(
        labels=loaded.labels,
        sampling=Sampling(
            frames=clip.frames,
            stride=clip.stride,
            size=clip.size,
            num_clips=num_clips,
            mode=clip.sampling,
        ),
        provenance=Provenance(
            name=name,
            job_kind=loaded.job.kind,
            job_hash=content_hash(loaded.job),
            encoder=loaded.job.model.name,
            checkpoint_step=loaded.step,
            cmaev_version=__version__,
            torch_version=torch.__version__,
            parity_max_difference=parity.max_difference,
        ),
    )
    write_metadata(path, metadata)
    if Session(path).metadata() != metadata:
        raise RuntimeError("export: the metadata of the written file reads back differently")
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return parity, metadata


def run_job(job: ExportJob, run: RunDir, events: EventLog) -> dict[str, float]:
    """Runs an export job in its run directory and returns its figures."""
    if job.resources.threads is not None:
        torch.set_num_threads(job.resources.threads)
    for leftover in run.export.glob(f"{_SCRATCH}*"):  # of an attempt that was killed
        shutil.rmtree(leftover)
    begin = time.monotonic()
    result = export_run(
        resolve_run(job.source),
        run.export,
        name=job.model_name,
        num_clips=job.num_clips,
        which=job.checkpoint,
        on_stage=lambda stage: events.progress(
            stage, step=STAGES.index(stage), total_steps=len(STAGES)
        ),
    )
    assert result.archive is not None
    events.artifact("onnx", result.onnx)
    events.artifact("other", result.parity_file)
    events.artifact("archive", result.archive)
    events.progress("done", step=len(STAGES), total_steps=len(STAGES))
    return result.summary | {"seconds": time.monotonic() - begin}


def main(argv: Sequence[str]) -> int:
    """Runs the export job of a run directory; returns the exit code of the runner contract.

    Raises:
        BadInput: if the run cannot be exported; `cmaev.launch` turns it into exit code 64.
        ParityError: if the exported model computes something else; exit code 1.
    """
    parser = argparse.ArgumentParser(prog="python -m cmaev_serving.export", description=__doc__)
    parser.add_argument("--run-dir", required=True)
    run = RunDir(parser.parse_args(argv).run_dir)
    job = run.read_job()
    if not isinstance(job, ExportJob):
        raise BadInput(f"kind: {job.kind} jobs are run by cmaev.train")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    events = EventLog(run)
    events.started(resumed_step=0, total_steps=len(STAGES), device="cpu", message="export")
    summary = run_job(job, run, events)
    write_atomic(run.summary, json.dumps(summary, indent=1) + "\n")
    events.outcome("succeeded", exit_code=EXIT_OK, summary=summary)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(launch.main())
