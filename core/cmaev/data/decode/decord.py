"""The decord backend, for files that were checked: it is wrong, silently, on open GOPs and .ts.

It seeks by itself, stands frames upright by itself, and believes the header's frame count; where
that is too high it may never return. Limits are held against the file by PyAV before it opens it.
"""

import numpy as np
from numpy.typing import NDArray

from cmaev.data.decode.base import (
    DecodeLimits,
    FileSource,
    VideoInfo,
    register_backend,
    require_module,
)
from cmaev.data.decode.batch import BatchVideo
from cmaev.data.decode.container import open_container, reopenable
from cmaev.data.errors import DataError


@register_backend("decord")
def open_decord(
    source: FileSource, limits: DecodeLimits, num_frames: int | None = None
) -> BatchVideo:
    """Opens a checked video with decord."""
    decord = require_module("decord")
    where = reopenable(source)
    container, stream = open_container(where, limits, probe=False)
    codec, form = stream.codec_context.name, container.format.name
    container.close()
    # Two errors of two families: what FFmpeg refuses, and what decord's own checks refuse.
    failures = (decord.DECORDError, RuntimeError)
    try:
        if isinstance(where, str):
            reader = decord.VideoReader(str(source), ctx=decord.cpu(0), num_threads=1)
        else:
            where.seek(0)
            reader = decord.VideoReader(where, ctx=decord.cpu(0), num_threads=1)
        count, rate = len(reader), float(reader.get_avg_fps())
    except failures:
        raise DataError("it cannot be read as a video by decord") from None
    if num_frames is not None and count < num_frames:
        raise DataError(f"decord finds {count} of {num_frames} frames; check it again")

    def fetch(indices: list[int]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        try:
            frames = reader.get_batch(indices).asnumpy()
            times = reader.get_frame_timestamp(indices)[:, 0]
        except failures:
            raise DataError("decord cannot decode the frames that are asked for") from None
        return frames, times.astype(np.float64)

    height, width = fetch([0])[0].shape[1:3]
    info = VideoInfo(
        width=width,
        height=height,
        fps=rate,
        seconds=count / rate if rate else 0.0,
        codec=codec,
        container=form,
        rotation=0,
    )
    return BatchVideo(
        fetch, info=info, num_frames=count if num_frames is None else num_frames, limits=limits
    )
