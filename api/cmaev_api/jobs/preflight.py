"""What can be found wrong with a job before it is queued, without opening a video."""

import os
from collections.abc import Iterator
from pathlib import Path

from cmaev_api.errors import unprocessable
from cmaev_api.jobs.repository import JobRepository
from cmaev_api.tables import Job
from cmaev_spec.job import ExportJob, FinetuneJob, JobSpec, PretrainJob, ProbeJob, referenced_run
from cmaev_spec.location import is_url
from cmaev_spec.rundir import RunDir
from cmaev_spec.state import JobState
from cmaev_spec.weights import source_problem

JOB_PREFIX = "job:"
FITTING_KINDS = {
    "pretrain": ("pretrain",),
    "finetune": ("pretrain", "finetune"),
    "probe": ("pretrain", "finetune"),
    "evaluate": ("finetune",),
    "export": ("finetune",),
}
"""Kind of job -> kinds of job that it can start from."""


def find_reference(spec: JobSpec, jobs: JobRepository) -> Job | None:
    """The job that `spec` starts from, if it names one.

    Raises:
        ProblemError: 422 if there is no such job, it is of the wrong kind, or it has not succeeded
            and never will.
    """
    reference = referenced_run(spec)
    if reference is None or not reference.startswith(JOB_PREFIX):
        return None
    field = _reference_field(spec)
    job = jobs.get(reference.removeprefix(JOB_PREFIX))
    if job is None:
        raise unprocessable(
            [(field, f"there is no job {reference.removeprefix(JOB_PREFIX)!r}")],
            fix="`cmaev jobs list` shows the jobs",
        )
    fitting = FITTING_KINDS[spec.kind]
    if job.kind not in fitting:
        message = (
            f"job {job.id} is of kind {job.kind}; a {spec.kind} job starts from a "
            f"{' or '.join(fitting)} job"
        )
        raise unprocessable([(field, message)])
    if job.state in {JobState.FAILED, JobState.CANCELLED}:
        raise unprocessable(
            [(field, f"job {job.id} is {job.state}: there is nothing to start from")],
            fix=f"retry it (POST /v1/jobs/{job.id}:retry) and refer to the new job",
        )
    return job


def check_paths(spec: JobSpec) -> None:
    """Checks the files and folders that a job names, on this machine.

    Raises:
        ProblemError: 422 naming every path that a run could not use.
    """
    problems = list(_path_problems(spec))
    if problems:
        raise unprocessable(
            problems,
            fix="correct the path; where only the workers see it, set CMAEV_SHARED_FILES=false",
        )


def _path_problems(spec: JobSpec) -> Iterator[tuple[str, str]]:
    reference = referenced_run(spec)
    if reference is not None and not reference.startswith(JOB_PREFIX):
        field = _reference_field(spec)
        if not os.path.isabs(reference):
            yield field, f"{reference!r} must be an absolute path or job:<id>"
        elif problem := _reference_problem(spec, reference):
            yield field, problem
    if isinstance(spec, ExportJob):
        return
    if spec.data.root is not None and not is_url(spec.data.root):
        if not os.path.isabs(spec.data.root):
            yield "data.root", f"{spec.data.root!r} must be an absolute path"
        elif not Path(spec.data.root).is_dir():
            yield "data.root", f"{spec.data.root} is not a folder"
    yield from _index_problems("data.index", spec.data.index)
    if isinstance(spec, FinetuneJob | ProbeJob):
        yield from _index_problems("data.val_index", spec.data.val_index)


def _index_problems(field: str, index: str) -> Iterator[tuple[str, str]]:
    path = Path(index)
    if is_url(index):
        return  # Whether it can be reached is for the workers to say.
    if not path.is_absolute():
        yield field, f"{index!r} must be an absolute path"
    elif path.is_dir():
        if not any(path.iterdir()):
            yield field, f"the folder {index} is empty"
    elif "*" in path.name:
        if not any(path.parent.glob(path.name)):
            yield field, f"there is no file {index}"
    elif not path.is_file():
        yield field, f"there is no file {index}"
    elif not os.access(path, os.R_OK):
        yield field, f"{index} cannot be read"
    elif path.stat().st_size == 0:
        yield field, f"{index} is empty"


def _reference_problem(spec: JobSpec, path: str) -> str | None:
    """Training and probes may start from any weights, the other kinds from a run alone."""
    if isinstance(spec, PretrainJob | FinetuneJob | ProbeJob):
        return source_problem(path)
    if not RunDir(path).spec.is_file():
        return f"{path} is not a run directory: it has no spec.json"
    return None


def _reference_field(spec: JobSpec) -> str:
    return "init" if isinstance(spec, PretrainJob | FinetuneJob) else "source"
