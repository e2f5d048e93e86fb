"""Decoding: `open_video(source)` and the registry of backends. numpy and PyAV only, no torch."""

from cmaev.data.decode.base import (
    BACKENDS,
    Decoded,
    DecodeLimits,
    Source,
    Video,
    VideoInfo,
    open_video,
    register_backend,
)

__all__ = [
    "BACKENDS",
    "DecodeLimits",
    "Decoded",
    "Source",
    "Video",
    "VideoInfo",
    "open_video",
    "register_backend",
]
