"""The torchcodec backend in its exact mode, for files that were checked. It loads torch.

It needs the libraries of an installed FFmpeg, stands frames upright by itself, and is wrong on .ts.
"""

import io

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


@register_backend("torchcodec")
def open_torchcodec(
    source: FileSource, limits: DecodeLimits, num_frames: int | None = None
) -> BatchVideo:
    """Opens a checked video with torchcodec."""
    decoders = require_module("torchcodec")
    where = reopenable(source)
    container, stream = open_container(where, limits, probe=False)
    number, form = stream.index, container.format.name
    container.close()
    if isinstance(where, io.IOBase):
        where.seek(0)
    # Its checks fail with either, its assertions with the third.
    failures = (RuntimeError, ValueError, IndexError)
    try:
        decoder = decoders.VideoDecoder(
            str(source) if isinstance(where, str) else where,
            stream_index=number,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="exact",
        )
    except failures:
        raise DataError("it cannot be read as a video by torchcodec") from None
    count, said = len(decoder), decoder.metadata
    if num_frames not in (None, count):
        raise DataError(f"torchcodec finds {count} of {num_frames} frames; check it again")

    def fetch(indices: list[int]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        try:
            batch = decoder.get_frames_at(indices)
        except failures:
            raise DataError("torchcodec cannot decode the frames that are asked for") from None
        return batch.data.numpy(), batch.pts_seconds.numpy()

    info = VideoInfo(
        width=said.width,
        height=said.height,
        fps=float(said.average_fps or 0.0),
        seconds=float(said.duration_seconds or 0.0),
        codec=said.codec,
        container=form,
        rotation=round(said.rotation or 0) % 360,
    )
    return BatchVideo(fetch, info=info, num_frames=count, limits=limits)
