"""A video that is kept as one picture file per frame."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class FrameFolder:
    """Pictures `template.format(start)` to `template.format(start + total - 1)` of a folder.

    Attributes:
        path: the folder.
        template: name of a frame's file, with one number in braces, as `img_{:05}.jpg`.
        start: number of the first frame.
        total: how many frames there are.
    """

    path: Path
    template: str = "img_{:05}.jpg"
    start: int = 1
    total: int = 0

    def frame(self, number: int) -> Path:
        """The file of frame `number`, counted from 0."""
        return self.path / self.template.format(self.start + number)


# Where the bytes of a row's video come from.
VideoSource = Path | bytes | BinaryIO | FrameFolder
