"""Exports a finetuned run to ONNX and to a TorchServe archive.

`python -m cmaev_serving.export --run-dir D` runs an export job; `export_run` is the function behind
it and behind `cmaev export`. Files get their final names only after the exported model was shown to
compute what PyTorch computes; after a failure nothing is left behind.
"""

import argparse
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

from cmaev.checkpoints import LoadedClassifier, load_classifier
from cmaev_serving.archive import build_archive
from cmaev_serving.graph import FramesToLogits, write_metadata, write_onnx
from cmaev_serving.metadata import ModelMetadata, Provenance, Sampling
from cmaev_serving.parity import ParityReport, check_parity
from cmaev_serving.report import Reporter, run_reported
from cmaev_serving.runtime import Session
from cmaev_spec import __version__
from cmaev_spec.exits import EXIT_BAD_INPUT, BadInput
from cmaev_spec.files import sync_directory, write_atomic
from cmaev_spec.job import ExportJob
from cmaev_spec.rundir import RunDir, resolve_run
from cmaev_spec.wire import content_hash

STAGES = ("load", "onnx", "parity", "archive")
ONNX_NAME = "model.onnx"
PARITY_NAME = "parity.json"
_logger = logging.getLogger(__name__)


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
    archive: bool = True,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> ExportResult:
    """Writes `model.onnx`, `parity.json` and, if asked for, `<name>.mar` into `out`.

    Args:
        run: directory of a finetuned run.
        out: folder to write into, made if it is not there.
        name: model name, also of the archive.
        num_clips: views in time that an answer will average.
        archive: whether to build the TorchServe archive.
        on_stage: told the name of each stage as it begins.

    Raises:
        BadInput: if the run cannot be exported.
        ParityError: if the exported model computes something else.
    """
    on_stage("load")
    loaded = load_classifier(run)
    out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out, prefix=".export-"))
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
            frames=clip.frames, stride=clip.stride, size=clip.size, num_clips=num_clips
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


def run_job(job: ExportJob, run: RunDir, reporter: Reporter) -> dict[str, float]:
    """Runs an export job in its run directory and returns its figures."""
    if job.resources.threads:
        torch.set_num_threads(job.resources.threads)
    begin = time.monotonic()
    result = export_run(
        resolve_run(job.source),
        run.export,
        name=job.model_name,
        num_clips=job.num_clips,
        on_stage=lambda stage: reporter.progress(stage, STAGES.index(stage), len(STAGES)),
    )
    reporter.artifact("onnx", result.onnx)
    reporter.artifact("other", result.parity_file)
    if result.archive is not None:
        reporter.artifact("archive", result.archive)
    reporter.progress("done", len(STAGES), len(STAGES))
    return result.summary | {"seconds": time.monotonic() - begin}


def main(argv: Sequence[str]) -> int:
    """Runs the export job of a run directory; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m cmaev_serving.export", description=__doc__)
    parser.add_argument("--run-dir", required=True, type=Path, help="directory with a spec.json")
    run = RunDir(parser.parse_args(argv).run_dir)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        job = run.read_job()
        if not isinstance(job, ExportJob):
            raise BadInput(f"kind: {job.kind} is not an export job; run it with cmaev.train")
    except BadInput as error:
        _logger.error("%s", error)
        return EXIT_BAD_INPUT
    return run_reported(run, lambda reporter: run_job(job, run, reporter))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
