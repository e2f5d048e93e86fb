"""Which label sets survive a mirror."""

import pytest

from cmaev.data.errors import DataError
from cmaev.data.mirror import refuse_mirrored_labels


@pytest.mark.parametrize(
    "names",
    [
        ("left", "right"),
        ("swipe_Left", "stop", "swipe_right"),
        ("Pulling from left to right", "Pulling from right to left"),
    ],
)
def test_labels_that_change_places_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"another label; set data\.hflip to false"):
        refuse_mirrored_labels(names)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("0", "1"),
        ("bright", "bleft"),
        ("turn left", "turn around"),
        ("left or right", "neither"),
    ],
)
def test_others_are_not(names: tuple[str, ...]) -> None:
    refuse_mirrored_labels(names)
