"""Something-Something V2's annotations: a json list of an id, and a template of its label.

The label names and their numbers come from the json of labels beside it, which the data set names
`labels.json` or `something-something-v2-labels.json`. Videos are `ID.webm` or `ID.mp4`.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from cmaev.data.errors import DataError
from cmaev.data.listing import Listing, Row
from cmaev.data.storage import Root, is_file, join, parent, read_bytes

_LABEL_FILES: Final = ("labels.json", "something-something-v2-labels.json")
# Where the data set's archives unpack to, and what its videos end with before and after preparing.
_FOLDERS: Final = ("", "20bn-something-something-v2/")
_SUFFIXES: Final = (".webm", ".mp4")


def read_something(source: str, data: bytes, root: Root) -> Listing:
    """Reads annotations.

    Args:
        source: name of the json file, which the json of labels lies beside.
        data: its content.
        root: the folder of the videos.

    Raises:
        DataError: if it is no such json, or the json of labels is of another form.
    """
    entries = _parse(source, data)
    if not isinstance(entries, list) or not entries:
        raise DataError(f'{source}: expected a list of {{"id": …, "template": …}} entries')
    return Listing(
        rows=_rows(source, entries, root), labels=_label_names(source), line_word="entry"
    )


def _rows(source: str, entries: list[Any], root: Root) -> Iterator[Row]:
    form = ""
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not str(entry.get("id", "")):
            raise DataError(f"{source}: entry {number} has no `id`; give every video one")
        name = str(entry["id"])
        form = form or _form(name, root)
        label = str(entry.get("template", "")).replace("[", "").replace("]", "")
        yield Row(number, form.format(name), label)


def _form(name: str, root: Root) -> str:
    """The folder and suffix under which the first video is found."""
    forms = [f"{folder}{{}}{suffix}" for folder in _FOLDERS for suffix in _SUFFIXES]
    return next((form for form in forms if root.kind(form.format(name))), forms[0])


def _label_names(source: str) -> tuple[str, ...]:
    files = [join(parent(source), name) for name in _LABEL_FILES]
    file = next(filter(is_file, files), None)
    if file is None:
        return ()
    numbers = _parse(file, read_bytes(file))
    try:
        names = sorted(numbers, key=lambda name: int(numbers[name]))
        whole = [int(numbers[name]) for name in names] == list(range(len(names)))
    except (TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise DataError(f'{file}: expected {{"label": "number", …}} with numbers from 0 on')
    return tuple(names)


def _parse(source: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise DataError(f"{source}:{error.lineno}: not valid json: {error.msg}") from None
    except UnicodeDecodeError:
        raise DataError(f"{source}: the json is not UTF-8 text; save it as UTF-8") from None
