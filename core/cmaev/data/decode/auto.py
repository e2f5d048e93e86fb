"""Choosing the decoder: the fast one for a checked file that is unchanged, else the reference."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from cmaev.data.decode.base import (
    Decoded,
    DecodeLimits,
    FileSource,
    Indices,
    Region,
    Source,
    TimedFrame,
    Video,
    VideoInfo,
    check_region,
    check_rising,
    decode_by_stream,
    is_available,
    open_video,
)
from cmaev.data.errors import DataError
from cmaev.data.frame_folder import FrameFolder
from cmaev.data.index import Verified


def open_checked(
    source: Source, *, verified: Verified | None, limits: DecodeLimits | None = None
) -> Video:
    """Opens the video of a row of an index with the fastest decoder that is right for it.

    Args:
        source: where the video is.
        verified: what `cmaev data check` found out about it; None if it was not checked.
        limits: what the file may ask for; the defaults where None.

    Raises:
        DataError: as `open_video` does.
    """
    limits = limits or DecodeLimits()
    if verified is None or isinstance(source, FrameFolder) or not _unchanged(source, verified):
        return open_video(source, limits=limits)
    if verified.decoder and is_available(verified.decoder):
        return _CheckedVideo(source, verified, limits)
    return open_video(source, limits=limits, num_frames=verified.frames)


class _CheckedVideo:
    """A video by its fast decoder; where that fails, as another version of it may, the reference.

    See `cmaev.data.decode.base.Video`.
    """

    def __init__(self, source: FileSource, verified: Verified, limits: DecodeLimits) -> None:
        self._source, self._limits = source, limits
        self.num_frames = verified.frames
        self.fast = True
        """Whether the fast decoder has not failed so far."""
        try:
            self._video = open_video(
                source, limits=limits, backend=verified.decoder, num_frames=verified.frames
            )
        except DataError:
            self._fall_back()

    @property
    def info(self) -> VideoInfo:
        return self._video.info

    def decode(self, indices: Indices, *, region: Region | None = None) -> Decoded:
        """The frames at `indices`, in that order."""
        return decode_by_stream(self, indices, region=region, max_bytes=self._limits.max_bytes)

    def stream(self, indices: Indices, *, region: Region | None = None) -> Iterator[TimedFrame]:
        """The frames at rising `indices`, one at a time."""
        wanted = check_rising(indices, self.num_frames)
        if region is not None:
            check_region(region, self.info)
        given = 0
        if self.fast:
            try:
                for item in self._video.stream(wanted, region=region):
                    yield item
                    given += 1
                return
            except DataError:
                self._video.close()
                self._fall_back()
        if given < len(wanted):
            yield from self._video.stream(wanted[given:], region=region)

    def iterate(self) -> Iterator[TimedFrame]:
        """All frames in order, (H, W, 3) each, with their times in seconds."""
        return self.stream(range(self.num_frames))

    def close(self) -> None:
        """Releases the file."""
        self._video.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _fall_back(self) -> None:
        self.fast = False
        self._video = open_video(self._source, limits=self._limits, num_frames=self.num_frames)


@contextmanager
def closing_source(source: Source) -> Iterator[Source]:
    """Closes a source that is an open file when the block ends."""
    try:
        yield source
    finally:
        if not isinstance(source, Path | bytes | FrameFolder):
            source.close()


def _stamp(source: FileSource) -> tuple[int, int]:
    """(bytes, mtime_ns), as `VideoIndex.stamp` gives them."""
    if isinstance(source, Path):
        try:
            status = os.stat(source)
        except OSError as error:
            raise DataError(f"it cannot be read: {(error.strerror or '').lower()}") from None
        return status.st_size, status.st_mtime_ns
    if isinstance(source, bytes):
        return len(source), -1
    place = source.tell()
    size = source.seek(0, os.SEEK_END)
    source.seek(place)
    return size, -1


def _unchanged(source: FileSource, verified: Verified) -> bool:
    return _stamp(source) == (verified.bytes, verified.mtime_ns)
