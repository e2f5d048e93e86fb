"""Opening files with PyAV, under limits and without a way to anything but the file itself."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from cmaev.data.decode.base import DecodeLimits, FileSource, VideoInfo
from cmaev.data.errors import DataError

VideoPacket: TypeAlias = "Packet[VideoStream]"

# Playlists and scripts, which make FFmpeg open other files and addresses, stay out.
FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,gif,flv,asf,ogg,h264,hevc,"
    "m4v,ivf,mxf,nut,apng,webp"
)
_MOST_STREAMS: Final = 16


def reopenable(source: FileSource) -> str | io.IOBase:
    """What every pass can open from its start."""
    if isinstance(source, Path):
        return f"file:{source}"
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, io.IOBase) and source.seekable():
        return source
    return io.BytesIO(source.read())


def open_container(
    source: str | io.IOBase, limits: DecodeLimits, *, probe: bool = True
) -> tuple[InputContainer, VideoStream]:
    """Opens a file and sets its first video stream up for one thread; the caller closes it.

    Args:
        source: see `reopenable`.
        limits: what the header is held against.
        probe: decodes the first frames, as players do, to learn what the header leaves out.
    """
    if isinstance(source, io.IOBase):
        source.seek(0)
    options = {
        "format_whitelist": FORMATS,
        "protocol_whitelist": "file",
        "max_pixels": str(limits.max_pixels),
    }
    # Probing decodes too, so its decoders are held to the same limit.
    probing = {"max_pixels": options["max_pixels"]} | ({} if probe else {"skip_frame": "all"})
    with readable():
        container = _open(source, options, [probing] * _MOST_STREAMS)
    try:
        return container, _first_stream(container, limits)
    except BaseException:
        container.close()
        raise


def _open(
    source: str | io.IOBase, options: dict[str, str], probing: list[dict[str, str]]
) -> InputContainer:
    try:
        return _av_open(source, options, probing)
    except ValueError as error:
        if isinstance(error, av.FFmpegError):
            raise
    # Formats whose streams are known only after probing take no options for it.
    if isinstance(source, io.IOBase):
        source.seek(0)
    return _av_open(source, options, None)


def _av_open(
    source: str | io.IOBase, options: dict[str, str], probing: list[dict[str, str]] | None
) -> InputContainer:
    return av.open(
        source,
        mode="r",
        options=options,
        stream_options=cast(Any, probing),  # the stub takes them for strings
        metadata_errors="ignore",
    )


def _first_stream(container: InputContainer, limits: DecodeLimits) -> VideoStream:
    if not container.streams.video:
        raise DataError("the file has no video stream")
    stream = container.streams.video[0]
    context = cast(VideoCodecContext | None, stream.codec_context)
    if context is None:
        raise DataError("its video codec is unknown")
    context.thread_count = 1
    context.options = {"max_pixels": str(limits.max_pixels)}
    limits.check_size(stream.width, stream.height)
    limits.check_time(_seconds(container, stream))
    return stream


@contextmanager
def readable() -> Iterator[None]:
    """Turns what FFmpeg and the file system raise into a `DataError` without paths."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"it cannot be read as a video: {_reason(error)}") from None


def describe(container: InputContainer, stream: VideoStream, first: VideoFrame) -> VideoInfo:
    """What header and first frame say; the frame alone tells rotation and true size."""
    quarters = quarter_turns(first)
    sides = first.width, first.height
    width, height = sides[::-1] if quarters % 2 else sides
    rate = stream.average_rate or stream.guessed_rate
    return VideoInfo(
        width=width,
        height=height,
        fps=float(rate) if rate else 0.0,
        seconds=_seconds(container, stream),
        codec=stream.codec_context.name,
        container=container.format.name,
        rotation=90 * quarters,
    )


def quarter_turns(frame: VideoFrame) -> int:
    """Quarter turns, counter-clockwise, that stand the frame upright: 0 to 3."""
    return round(frame.rotation / 90) % 4


def _seconds(container: InputContainer, stream: VideoStream) -> float:
    """Length by the header; 0 where it does not say."""
    if stream.duration is not None and stream.time_base is not None:
        return max(float(stream.duration * stream.time_base), 0.0)
    return max((container.duration or 0) / av.time_base, 0.0)


def _reason(error: Exception) -> str:
    """The error's message without the path that FFmpeg appends."""
    if isinstance(error, av.ArgumentError):
        return "its format is none of the video formats that are allowed"
    text = getattr(error, "strerror", None) or type(error).__name__
    return str(text).lower()
