"""From what a caller gives to a job, and from a job to a run that has ended."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from cmaev.cli import claim
from cmaev.data.output import local_output
from cmaev.interface.process import RunFailed, run_to_end
from cmaev.interface.videos import IndexFile, location
from cmaev_spec.exits import BadInput
from cmaev_spec.files import no_room
from cmaev_spec.job import FinetuneJob, JobSpec, PretrainJob, SpecError, parse_job
from cmaev_spec.overrides import apply_words, in_words
from cmaev_spec.preset import load_preset
from cmaev_spec.rundir import RunDir, resolve_run
from cmaev_spec.weights import source_problem

Out: TypeAlias = str | os.PathLike[str]

_ARGUMENTS: Final = {
    "run_dir": "out",
    "init": "source",
    "data.index": "videos",
    "data.val_index": "val_videos",
}
"""Fields that have another name as an argument."""


def read_preset(name: str, *, kind: str) -> dict[str, Any]:
    """A preset of one kind of job, as plain data.

    Raises:
        SpecError: if there is none of that name, or it is of another kind.
    """
    data = load_preset(name)
    if data["kind"] != kind:
        raise SpecError([("preset", f"{name} is for {data['kind']} jobs, and this is {kind}")])
    return data


def build_job(
    data: Mapping[str, Any], sections: Mapping[str, Any], overrides: Mapping[str, object]
) -> JobSpec:
    """A job from plain data, what its arguments say, and overrides by word.

    Raises:
        SpecError: naming each argument that is wrong and why.
        TypeError: for an override that there is not.
    """
    job = {**data, **sections, "data": {**data.get("data", {}), **sections.get("data", {})}}
    with named_by_argument(data["kind"]):
        return parse_job(apply_words(job, overrides))


def run_job(
    job: JobSpec,
    *,
    out: Path,
    indexes: Iterable[IndexFile],
    progress: bool,
    allow_changes: bool = False,
) -> RunDir:
    """Claims the folder, writes the indexes of the job and runs it to its end.

    Args:
        job: what is to run.
        out: folder of the run.
        indexes: files that the job names.
        progress: show what the run prints, or append it to its `log.txt`.
        allow_changes: go on with a run whose job was another, where that can be.

    Raises:
        SpecError: if the folder holds another run.
        BadInput: if the specification or the data is at fault.
        RunStopped: if it was stopped by somebody else.
        RunFailed: for any other end before the last step.
    """
    run = RunDir(out)
    try:
        with named_by_argument(job.kind):
            claim(run, job, allow_changes=allow_changes)
        for index in indexes:
            index.write()
        run_to_end(run, progress=progress)
    except SpecError:
        raise
    except BadInput as error:
        field, colon, text = str(error).partition(": ")
        raise BadInput(f"{_argument(job.kind, field)}{colon}{text}") from None
    except OSError as error:
        if (told := no_room(error)) is None:
            raise
        raise RunFailed(told) from error
    return run


def out_folder(out: Out) -> Path:
    """The folder of a run.

    Raises:
        DataError: for a URL, and for what is no path.
    """
    return local_output(location(out, name="out")).absolute()


def check_source(source: str, job: JobSpec) -> None:
    """Looks at what a job starts from, as far as that is known before it is read.

    Raises:
        SpecError: if nothing is there, or it is a run of another model.
    """
    run = resolve_run(source)
    problem = source_problem(run.path)
    if problem is not None:
        raise SpecError([("source", problem)])
    if not run.spec.is_file() or not isinstance(job, PretrainJob | FinetuneJob):
        return
    other = run.read_job()
    if isinstance(other, PretrainJob | FinetuneJob) and other.model.name != job.model.name:
        raise SpecError(
            [
                (
                    "model",
                    f"source is a run of {other.model.name}, and this job trains "
                    f"{job.model.name}; choose the preset or the model that fits",
                )
            ]
        )


def source_location(source: Out) -> str:
    """A source as a job names it: the same from any working directory.

    Raises:
        DataError: for what is no path.
    """
    text = location(source, name="source")
    return text if text.startswith("job:") else os.path.abspath(text)


@contextmanager
def named_by_argument(kind: str) -> Iterator[None]:
    """Names the arguments instead of the fields in a SpecError."""
    try:
        yield
    except SpecError as error:
        problems = [(_argument(kind, field), text) for field, text in error.problems]
        told = [(name, text.replace("--allow-changes", "allow_changes")) for name, text in problems]
        raise SpecError(told) from None


def _argument(kind: str, field: str) -> str:
    """The argument that a field comes from; what is no field stays as it is."""
    return _ARGUMENTS.get(field) or in_words(kind, field)
