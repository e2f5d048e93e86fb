"""Ready-made specifications: YAML files in `presets/`, each a job but for the paths of the data.

A preset may extend another one: it then holds what differs, and is shown and loaded whole.
"""

import difflib
from importlib.resources import files
from itertools import takewhile
from typing import Any, Final

import yaml

from cmaev_spec.job import SpecError

EXTENDS: Final = "extends"

_FOLDER = files("cmaev_spec") / "presets"


def list_presets() -> list[str]:
    """Names of all presets, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in _FOLDER.iterdir()
        if entry.name.endswith(".yaml")
    )


def preset_text(name: str) -> str:
    """The whole YAML of a preset, under the comment that it begins with.

    Raises:
        SpecError: if there is no such preset; the message lists those there are.
    """
    text = _read(name)
    if EXTENDS not in yaml.safe_load(text):
        return text
    comment = takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True))
    # Mappings and lists that hold no others stand on one line, as people write them.
    body = yaml.safe_dump(load_preset(name), sort_keys=False, default_flow_style=None, width=100)
    return "".join(comment) + body


def load_preset(name: str) -> dict[str, Any]:
    """A preset as plain data, to be completed and given to `parse_job`.

    Raises:
        SpecError: if there is no such preset.
    """
    data = yaml.safe_load(_read(name))
    assert isinstance(data, dict)
    parent = data.pop(EXTENDS, None)
    return data if parent is None else _merged(load_preset(parent), data)


def _read(name: str) -> str:
    if name not in list_presets():
        known = list_presets()
        near = difflib.get_close_matches(name, known, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise SpecError([("preset", f"no preset {name!r}; {guess}there are: {', '.join(known)}")])
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`, mapping by mapping."""
    merged = {**base}
    for key, value in changes.items():
        inner = merged.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            value = _merged(inner, value)
        merged[key] = value
    return merged
