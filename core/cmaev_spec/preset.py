"""Ready-made specifications: YAML files in `presets/`, each a job but for the paths of the data."""

from importlib.resources import files
from typing import Any

import yaml

from cmaev_spec.job import SpecError

_FOLDER = files("cmaev_spec") / "presets"


def list_presets() -> list[str]:
    """Names of all presets, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in _FOLDER.iterdir()
        if entry.name.endswith(".yaml")
    )


def preset_text(name: str) -> str:
    """The YAML of a preset, with its comments.

    Raises:
        SpecError: if there is no such preset; the message lists those there are.
    """
    if name not in list_presets():
        raise SpecError([("preset", f"no preset {name!r}; there are: {', '.join(list_presets())}")])
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def load_preset(name: str) -> dict[str, Any]:
    """A preset as plain data, to be completed and given to `parse_job`.

    Raises:
        SpecError: if there is no such preset.
    """
    data = yaml.safe_load(preset_text(name))
    assert isinstance(data, dict)
    return data
