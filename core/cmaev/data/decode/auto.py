"""Choosing the decoder: the fast one for a checked file that is unchanged, else the reference."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmaev.data.decode.base import DecodeLimits, Source, Video, is_available, open_video
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
    if verified is None or isinstance(source, FrameFolder) or not _unchanged(source, verified):
        return open_video(source, limits=limits)
    count = verified.frames
    if verified.decoder and is_available(verified.decoder):
        try:
            return open_video(source, limits=limits, backend=verified.decoder, num_frames=count)
        except DataError:
            # Another version of the decoder than the one that was checked: the reference tells.
            return open_video(source, limits=limits, num_frames=count)
    return open_video(source, limits=limits, num_frames=count)


@contextmanager
def closing_source(source: Source) -> Iterator[Source]:
    """Closes a source that is an open file when the block ends."""
    try:
        yield source
    finally:
        if not isinstance(source, Path | bytes | FrameFolder):
            source.close()


def stamp(source: Source) -> tuple[int, int]:
    """(bytes, mtime_ns), by which a change is noticed; -1 where there is no such thing."""
    if isinstance(source, Path | FrameFolder):
        try:
            status = os.stat(source if isinstance(source, Path) else source.path)
        except OSError as error:
            raise DataError(f"it cannot be read: {(error.strerror or '').lower()}") from None
        return status.st_size, status.st_mtime_ns
    if isinstance(source, bytes):
        return len(source), -1
    place = source.tell()
    size = source.seek(0, os.SEEK_END)
    source.seek(place)
    return size, -1


def _unchanged(source: Source, verified: Verified) -> bool:
    return stamp(source) == (verified.bytes, verified.mtime_ns)
