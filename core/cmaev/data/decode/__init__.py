"""Decoding: `open_video(source)` and the registry of backends. numpy and PyAV only, no torch."""

from cmaev.data.decode.base import (
    BACKENDS,
    Decoded,
    DecodeLimits,
    FileSource,
    Region,
    Source,
    Video,
    VideoInfo,
    backend_names,
    is_available,
    open_video,
    register_backend,
)

__all__ = [
    "BACKENDS",
    "DecodeLimits",
    "Decoded",
    "FileSource",
    "Region",
    "Source",
    "Video",
    "VideoInfo",
    "backend_names",
    "is_available",
    "open_video",
    "register_backend",
]
