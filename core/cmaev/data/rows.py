"""The video of a row of an index, opened with the decoder that is right for it."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from cmaev.data.decode import DecodeLimits, Video
from cmaev.data.decode.auto import closing_source, open_checked
from cmaev.data.decode.base import Region
from cmaev.data.errors import BadVideo, BadVideoError, DataError
from cmaev.data.index import VideoIndex
from cmaev.data.sampling import IndexArray, segment_frames
from cmaev.data.transforms import Box, Frames


class RowVideo:
    """The frames that a row means: those of a whole video, or of a part of it."""

    def __init__(self, video: Video, segment: tuple[int, int] | None) -> None:
        """Checks that the part is there.

        Args:
            video: an open video.
            segment: (first frame, frames); None for the whole video.

        Raises:
            DataError: if the video is shorter than that.
        """
        self._video = video
        self._part = segment_frames(video.num_frames, segment)

    @property
    def num_frames(self) -> int:
        """Frames of the row."""
        return len(self._part)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright."""
        return self._video.info.width, self._video.info.height

    def decode(self, indices: IndexArray, *, part: Box | None = None) -> Frames:
        """The frames at `indices` of the row, whole or what lies inside `part`: (U, H, W, 3)."""
        region = None if part is None else Region(*part)
        return self._video.decode(self._part.start + indices, region=region).frames

    def iterate(self) -> Iterator[Frames]:
        """All frames of the row in order, (H, W, 3) each."""
        for frame, _ in self._video.stream(np.asarray(self._part)):
            yield frame


@contextmanager
def open_row(
    index: VideoIndex, row: int, *, limits: DecodeLimits | None = None
) -> Iterator[RowVideo]:
    """Opens the video at `row`.

    Raises:
        BadVideoError: also for what fails while it is open.
    """
    try:
        with (
            closing_source(index.open_source(row)) as source,
            open_checked(source, verified=index.verified(row), limits=limits) as video,
        ):
            yield RowVideo(video, index.segment(row))
    except DataError as error:
        bad = BadVideo(row, index.where(row), index.paths[row], str(error))
        raise BadVideoError(bad) from None
