"""Labels that a mirror turns into one another."""

import re
from collections.abc import Iterable
from typing import Final

from cmaev.data.errors import DataError

_SIDE: Final = re.compile(r"(?<![a-z])(left|right)(?![a-z])")
_OPPOSITE: Final = {"left": "right", "right": "left"}


def refuse_mirrored_labels(names: Iterable[str]) -> None:
    """Checks that flipped clips keep their label.

    Raises:
        DataError: naming two labels that differ by left and right alone, as in Something-Something.
    """
    known = {name.lower(): name for name in names}
    for name, shown in known.items():
        mirrored = _SIDE.sub(lambda side: _OPPOSITE[side[1]], name)
        if mirrored != name and mirrored in known:
            raise DataError(
                f"data.hflip: in a mirror {shown!r} becomes {known[mirrored]!r}, which is another "
                "label; set data.hflip to false"
            )
