"""Exit codes of every command and runner, and the error that means the first of them."""

from typing import Final

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_BAD_INPUT: Final = 64
"""Bad specification or data: trying again cannot help."""
EXIT_STOPPED: Final = 75
"""Stopped on request after a checkpoint: the run can go on."""


class BadInput(ValueError):  # noqa: N818 - the name reads well where it is raised
    """The specification or the data is at fault; commands and runners end with EXIT_BAD_INPUT."""


class SaveError(RuntimeError):
    """A checkpoint cannot be written, as where the disk is full."""
