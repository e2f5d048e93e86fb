"""Paths of a job made absolute: the control plane does not know where a user stands."""

from pathlib import Path
from typing import Any

from cmaev_spec.job import JobSpec, parse_job
from cmaev_spec.location import is_url

DATA_PATHS = ("index", "val_index", "root")
RUN_PATHS = ("init", "source")


def absolute_paths(spec: JobSpec) -> JobSpec:
    """Returns the job with its relative paths taken from the current folder."""
    data: dict[str, Any] = spec.model_dump(mode="json")
    for key in RUN_PATHS:
        if data.get(key) and not data[key].startswith("job:"):
            data[key] = _absolute(data[key])
    for key in DATA_PATHS:
        if data.get("data", {}).get(key):
            data["data"][key] = _absolute(data["data"][key])
    return parse_job(data)


def _absolute(path: str) -> str:
    if is_url(path):
        return path
    return str(Path(path).expanduser().absolute())
