"""The reference decoder: PyAV, from the first frame on, in presentation order.

Seeking returns wrong frames on open GOPs and transport streams, so nothing is ever sought: a pass
decodes from the start of the file up to the last frame that is wanted.
"""

import io
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from types import TracebackType
from typing import Final, Self

from av.video.frame import VideoFrame

from cmaev.data.decode.base import (
    Decoded,
    DecodeLimits,
    FileSource,
    Indices,
    Region,
    TimedFrame,
    VideoInfo,
    check_region,
    check_rising,
    decode_by_stream,
    register_backend,
)
from cmaev.data.decode.container import (
    VideoPacket,
    describe,
    open_container,
    readable,
    reopenable,
)
from cmaev.data.decode.convert import Converter
from cmaev.data.errors import DataError

# Where one packet is one frame, so that counting packets counts frames without decoding.
COUNTABLE_CODECS: Final = frozenset({"h264", "hevc", "av1", "libdav1d", "mpeg4", "mjpeg"})
COUNTABLE_CONTAINERS: Final = frozenset({"mov", "matroska"})
# Packets that are counted before they are decoded are held up to this many bytes, else read again.
HELD_BYTES: Final = 64 << 20


class PyAVVideo:
    """A video that is read by PyAV; see `cmaev.data.decode.base.Video`."""

    def __init__(
        self, source: FileSource, limits: DecodeLimits, num_frames: int | None = None
    ) -> None:
        self._source = reopenable(source)
        self._limits = limits
        first = _Pass(self._source, limits)
        try:
            self.info = first.describe()
            self._packets = first.count_packets() if num_frames is None else 0
        except BaseException:
            first.close()
            raise
        if num_frames is not None:
            self.num_frames = num_frames
        # The pass that looked at the first frame serves the first decoding too.
        self._waiting: _Pass | None = first

    @property
    def counted(self) -> int | None:
        """How many frames there should be by the packets; None where those do not tell."""
        container = self.info.container.split(",")[0]
        if self.info.codec in COUNTABLE_CODECS and container in COUNTABLE_CONTAINERS:
            return self._packets
        return None

    @cached_property
    def num_frames(self) -> int:
        """Frames that can be decoded, by packets where those are frames, else by decoding."""
        counted = self.counted
        return sum(1 for _ in self._decoded()) if counted is None else counted

    def decode(self, indices: Indices, *, region: Region | None = None) -> Decoded:
        """The frames at `indices`, in that order; decodes up to the last of them only."""
        return decode_by_stream(self, indices, region=region, max_bytes=self._limits.max_bytes)

    def stream(self, indices: Indices, *, region: Region | None = None) -> Iterator[TimedFrame]:
        """The frames at rising `indices`, one at a time."""
        wanted = check_rising(indices, self.num_frames)
        part = check_region(region, self.info)
        converter = Converter(part, size=(self.info.width, self.info.height))
        given = decoded = 0
        for decoded, (frame, time) in enumerate(self._decoded(), start=1):
            if decoded == wanted[given] + 1:
                yield converter(frame), time
                given += 1
                if given == len(wanted):
                    return
        raise DataError(
            f"only {decoded} of the {self.num_frames} frames can be decoded; the file is "
            "damaged: copy or encode it again"
        )

    def iterate(self) -> Iterator[TimedFrame]:
        """All frames in order, (H, W, 3) each, with their times in seconds."""
        converter = Converter(None, size=(self.info.width, self.info.height))
        for frame, time in self._decoded():
            yield converter(frame), time

    def close(self) -> None:
        """Closes the file if it is open; a later call opens it again."""
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _decoded(self) -> Iterator[tuple[VideoFrame, float]]:
        """Every frame in presentation order and its time after the first, which never falls."""
        run, self._waiting = self._waiting, None
        if run is None or run.spent:
            run = _Pass(self._source, self._limits)
        first: int | None = None
        time = 0.0
        try:
            for number, frame in enumerate(run.frames()):
                self._limits.check_count(number + 1)
                self._limits.check_size(frame.width, frame.height)
                if frame.pts is None or frame.time_base is None:
                    time = max(time, number / self.info.fps) if self.info.fps else float(number)
                else:
                    first = frame.pts if first is None else first
                    time = max(time, float((frame.pts - first) * frame.time_base))
                self._limits.check_time(time)
                yield frame, time
        finally:
            run.close()


class _Pass:
    """One way through a file: opened once, each packet read once and decoded at most once."""

    def __init__(self, source: str | io.IOBase, limits: DecodeLimits) -> None:
        self._limits = limits
        self._container, self._stream = open_container(source, limits)
        self._demuxed: Iterator[VideoPacket] = iter(self._container.demux(self._stream))
        self._held: list[VideoPacket] = []
        self._begun: list[VideoFrame] = []
        self._count = 0
        self.spent = False
        """Whether packets are gone, read but not held, so that no decoding can start here."""
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def describe(self) -> VideoInfo:
        """What header and first frame say."""
        return describe(self._container, self._stream, self._begun[0])

    def count_packets(self) -> int:
        """Reads to the end, holding the packets while they are small."""
        size = 0
        with readable():
            for packet in self._demuxed:
                self._add(packet)
                size += packet.size
                self.spent = self.spent or size > HELD_BYTES
                if self.spent:
                    self._held.clear()
                else:
                    self._held.append(packet)
        return self._count

    def frames(self) -> Iterator[VideoFrame]:
        """All frames in presentation order; once."""
        assert not self.spent
        self.spent = True
        yield from self._begun
        self._begun.clear()
        with readable():
            for packet in chain(self._held, self._demuxed):
                yield from packet.decode()

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def _begin(self) -> None:
        """Decodes up to the first frame."""
        with readable():
            for packet in self._demuxed:
                self._add(packet)
                self._begun = packet.decode()
                if self._begun:
                    return
        raise DataError("it holds no frames that can be decoded")

    def _add(self, packet: VideoPacket) -> None:
        self._count += bool(packet.size) and not packet.is_discard
        self._limits.check_count(self._count)


@register_backend("pyav")
def open_pyav(source: FileSource, limits: DecodeLimits, num_frames: int | None = None) -> PyAVVideo:
    """Opens a video with PyAV."""
    return PyAVVideo(source, limits, num_frames)
