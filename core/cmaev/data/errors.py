"""The errors of everything that reads videos."""

from typing import NamedTuple

from cmaev_spec.exits import BadInput


class DataError(BadInput):
    """A video or an index cannot be used; the message says where, why and what to do."""


class BadVideo(NamedTuple):
    """A video of an index that cannot be read."""

    row: int
    """Its place in the index."""
    where: str
    """`file:line` of the index."""
    path: str
    reason: str


class BadVideoError(DataError):
    """One video of an index cannot be read; the others can."""

    def __init__(self, video: BadVideo) -> None:
        super().__init__(video)
        self.video = video

    def __str__(self) -> str:
        _row, where, path, reason = self.video
        return f"{where}: {path}: {reason}; replace the video or remove the row"
