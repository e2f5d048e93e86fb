"""The reference decoder: PyAV, from the first frame on, in presentation order.

Seeking returns wrong frames on open GOPs and transport streams, so nothing is ever sought: a pass
opens the file anew and decodes up to the last frame that is wanted.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cmaev.data.decode.base import (
    Decoded,
    DecodeLimits,
    Indices,
    Source,
    VideoInfo,
    check_indices,
    register_backend,
)
from cmaev.data.errors import DataError

# Playlists and scripts, which make FFmpeg open other files and addresses, stay out.
FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,gif,flv,asf,ogg,h264,hevc,"
    "m4v,ivf,mxf,nut,apng,webp"
)
# Where one packet is one frame, so that counting packets counts frames without decoding.
COUNTABLE_CODECS: Final = frozenset({"h264", "hevc", "av1", "libdav1d", "mpeg4", "mjpeg"})
COUNTABLE_CONTAINERS: Final = frozenset({"mov", "matroska"})


class PyAVVideo:
    """A video that is read by PyAV; see `cmaev.data.decode.base.Video`."""

    def __init__(self, source: Source, limits: DecodeLimits) -> None:
        self._source = _reopenable(source)
        self._limits = limits
        with self._open() as (container, stream):
            self._check_size(stream.width, stream.height)
            self._check_time(_seconds(container, stream))
            first, packets = self._probe(container, stream)
            self.info = _describe(container, stream, first)
        self._packets = packets

    @cached_property
    def num_frames(self) -> int:
        """Frames that can be decoded, by packets where those are frames, else by decoding."""
        container = self.info.container.split(",")[0]
        if self.info.codec in COUNTABLE_CODECS and container in COUNTABLE_CONTAINERS:
            return self._packets
        return sum(1 for _ in self._decoded())

    def decode(self, indices: Indices) -> Decoded:
        """The frames at `indices`, in that order; decodes up to the last of them only."""
        wanted = check_indices(indices, self.num_frames)
        unique, places = np.unique(wanted, return_inverse=True)
        size = len(wanted) * self.info.width * self.info.height * 3
        if size > self._limits.max_bytes:
            raise DataError(
                f"{len(wanted)} frames of {self.info.width}x{self.info.height} need {size:,} bytes "
                f"of memory, more than the {self._limits.max_bytes:,} allowed"
            )
        frames: list[NDArray[np.uint8]] = []
        times: list[float] = []
        converter = _Converter()
        decoded = 0
        for decoded, (frame, time) in enumerate(self._decoded(), start=1):
            if decoded == unique[len(frames)] + 1:
                frames.append(converter(frame))
                times.append(time)
                if len(frames) == len(unique):
                    break
        else:
            raise DataError(
                f"only {decoded} of the {self.num_frames} frames can be decoded; the file is "
                "damaged: copy or encode it again"
            )
        timestamps = np.asarray(times, dtype=np.float64)
        if np.array_equal(unique, wanted):
            return Decoded(np.stack(frames), timestamps)
        return Decoded(np.stack([frames[place] for place in places]), timestamps[places])

    def iterate(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        """All frames in order, (H, W, 3) each, with their times in seconds."""
        converter = _Converter()
        for frame, time in self._decoded():
            yield converter(frame), time

    def close(self) -> None:
        """Nothing is held open between passes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        if isinstance(self._source, io.IOBase):
            self._source.seek(0)
        options = {
            "format_whitelist": FORMATS,
            "protocol_whitelist": "file",
            "max_pixels": str(self._limits.max_pixels),
        }
        try:
            with av.open(
                self._source, mode="r", options=options, metadata_errors="ignore"
            ) as container:
                if not container.streams.video:
                    raise DataError("the file has no video stream")
                stream = container.streams.video[0]
                context = cast(VideoCodecContext | None, stream.codec_context)
                if context is None:
                    raise DataError("its video codec is unknown")
                context.thread_count = 1
                context.options = {"max_pixels": str(self._limits.max_pixels)}
                yield container, stream
        except (av.FFmpegError, OSError) as error:
            raise DataError(f"it cannot be read as a video: {_reason(error)}") from None

    def _decoded(self) -> Iterator[tuple[VideoFrame, float]]:
        """Every frame in presentation order and its time after the first, which never falls."""
        with self._open() as (container, stream):
            first: int | None = None
            time = 0.0
            for number, frame in enumerate(container.decode(stream)):
                self._check_count(number + 1)
                self._check_size(frame.width, frame.height)
                if frame.pts is None or frame.time_base is None:
                    time = max(time, number / self.info.fps) if self.info.fps else float(number)
                else:
                    first = frame.pts if first is None else first
                    time = max(time, float((frame.pts - first) * frame.time_base))
                self._check_time(time)
                yield frame, time

    def _probe(self, container: InputContainer, stream: VideoStream) -> tuple[VideoFrame, int]:
        """The first frame, which alone tells rotation and true size, and the number of packets."""
        first: VideoFrame | None = None
        count = 0
        for packet in container.demux(stream):
            if first is None:
                first = next(iter(packet.decode()), None)
            count += bool(packet.size) and not packet.is_discard
            self._check_count(count)
        if first is None:
            raise DataError("it holds no frames that can be decoded")
        return first, count

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise DataError(
                f"its frames of {width}x{height} pixels are over the limit of "
                f"{self._limits.max_pixels} pixels; scale it down"
            )

    def _check_time(self, seconds: float) -> None:
        if seconds > self._limits.max_seconds:
            raise DataError(f"it is longer than {self._limits.max_seconds:g} seconds; cut it")

    def _check_count(self, count: int) -> None:
        if count > self._limits.max_frames:
            raise DataError(f"it has more than {self._limits.max_frames} frames; cut it")


@register_backend("pyav")
def open_pyav(source: Source, limits: DecodeLimits) -> PyAVVideo:
    """Opens a video with PyAV."""
    return PyAVVideo(source, limits)


class _Converter:
    """Decoder frames to upright RGB of one size, that of the first."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        if self._size is None:
            self._size = frame.width, frame.height
        width, height = self._size
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
        array: NDArray[np.uint8] = rgb.to_ndarray().astype(np.uint8, copy=False)
        return np.rot90(array, _quarter_turns(frame))


def _reopenable(source: Source) -> str | io.IOBase:
    """What every pass can open from its start."""
    if isinstance(source, Path):
        return f"file:{source}"
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, io.IOBase) and source.seekable():
        return source
    return io.BytesIO(source.read())


def _describe(container: InputContainer, stream: VideoStream, first: VideoFrame) -> VideoInfo:
    quarters = _quarter_turns(first)
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


def _seconds(container: InputContainer, stream: VideoStream) -> float:
    """Length by the header; 0 where it does not say."""
    if stream.duration is not None and stream.time_base is not None:
        return max(float(stream.duration * stream.time_base), 0.0)
    return max((container.duration or 0) / av.time_base, 0.0)


def _quarter_turns(frame: VideoFrame) -> int:
    """Quarter turns, counter-clockwise, that stand the frame upright: 0 to 3."""
    return round(frame.rotation / 90) % 4


def _reason(error: Exception) -> str:
    """The error's message without the path that FFmpeg appends."""
    if isinstance(error, av.ArgumentError):
        return "its format is none of the video formats that are allowed"
    text = getattr(error, "strerror", None) or type(error).__name__
    return str(text).lower()
