"""The fast decoder: PyAV from the key frame before what is wanted, for files that were checked.

All packets are read first, so that nothing is sought in the file and frames are known by their
times. Of H.264, frames that nothing refers to and nobody wants are not decoded at all.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import groupby
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

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

# Larger files are left to the reference decoder, which holds nothing.
MOST_BYTES: Final = 64 << 20
# HEVC's counterpart may be referred to by frames of a higher layer.
SKIPPING_CODECS: Final = frozenset({"h264"})


class SeekVideo:
    """A video whose packets are held; see `cmaev.data.decode.base.Video`."""

    def __init__(
        self, source: FileSource, limits: DecodeLimits, num_frames: int | None = None
    ) -> None:
        self._limits = limits
        self._info: VideoInfo | None = None
        self._container, self._stream = open_container(reopenable(source), limits, probe=False)
        try:
            self._packets = _read_packets(self._container, self._stream, limits)
            self._timeline = _Timeline(self._packets)
        except BaseException:
            self.close()
            raise
        if num_frames not in (None, self.num_frames):
            self.close()
            raise DataError(f"it has {self.num_frames} frames, not {num_frames}; check it again")

    @property
    def info(self) -> VideoInfo:
        """What header and a frame say; asking before anything is decoded costs a frame."""
        if self._info is None:
            self._note(self._first_frame())
        assert self._info is not None
        return self._info

    @property
    def num_frames(self) -> int:
        """Packets that are shown, each of which is a frame."""
        return len(self._timeline.times)

    @property
    def starts(self) -> Sequence[int]:
        """The frames at which decoding may begin: the first and all key frames."""
        return self._timeline.starts

    def decode(self, indices: Indices, *, region: Region | None = None) -> Decoded:
        """The frames at `indices`, in that order."""
        return decode_by_stream(self, indices, region=region, max_bytes=self._limits.max_bytes)

    def stream(self, indices: Indices, *, region: Region | None = None) -> Iterator[TimedFrame]:
        """The frames at rising `indices`, one at a time."""
        wanted = check_rising(indices, self.num_frames)
        converter = Converter(None if region is None else check_region(region, self.info))
        tick = self._stream.time_base or Fraction(1)
        for run in self._timeline.plan(wanted):
            given = 0
            for frame in self._run(run):
                if given < len(run.times) and frame.pts == run.times[given]:
                    given += 1
                    self._note(frame)
                    yield converter(frame), float((frame.pts - self._timeline.times[0]) * tick)
            if given < len(run.times):
                raise DataError("a frame is missing where its key frame leads; check the file")

    def iterate(self) -> Iterator[TimedFrame]:
        """All frames in order, (H, W, 3) each, with their times in seconds."""
        return self.stream(range(self.num_frames))

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _note(self, frame: VideoFrame) -> None:
        """Learns from a frame, any of which must do: the first one may never be decoded."""
        if (frame.width, frame.height) != (self._stream.width, self._stream.height):
            raise DataError("its frames are not all of the size that the header says")
        if self._info is None:
            self._info = describe(self._container, self._stream, frame)

    def _first_frame(self) -> VideoFrame:
        """The first frame alone, which tells rotation and true size."""
        context = self._stream.codec_context
        with readable():
            frames = [*context.decode(self._packets[0]), *context.decode(None)]
            context.flush_buffers()
        if not frames:
            raise DataError("its first packet holds no frame that can be decoded")
        return frames[0]

    def _run(self, run: "_Run") -> Iterator[VideoFrame]:
        """Decodes packets `run.first` to `run.last`; frames come in presentation order."""
        context = self._stream.codec_context
        skips = context.name in SKIPPING_CODECS
        wanted = frozenset(run.times)
        with readable():
            context.flush_buffers()
            for packet in self._packets[run.first : run.last + 1]:
                if skips:
                    context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                yield from context.decode(packet)
            yield from context.decode(None)


class _Run(NamedTuple):
    """Packets from a key frame on, first and last included, and the times wanted of them."""

    first: int
    last: int
    times: list[int]


class _Timeline:
    """Which packet shows when, and where decoding may begin."""

    def __init__(self, packets: Sequence[VideoPacket]) -> None:
        shown = [(p.pts, place) for place, p in enumerate(packets) if not p.is_discard]
        self._places = {time: place for time, place in shown if time is not None}
        if not shown or len(self._places) < len(shown):
            raise DataError("its packets do not all have times of their own")
        self.times = sorted(self._places)
        """When each frame is shown, in ticks of the stream."""
        keys = {
            (p.pts, place) for place, p in enumerate(packets) if p.is_keyframe and p.pts is not None
        }
        # Frames that are shown before the first key frame need all packets there are.
        self._keys = sorted({(self.times[0], 0), *keys})
        first = (bisect_left(self.times, time) for time, _ in self._keys)
        self.starts = sorted({index for index in first if index < len(self.times)})

    def plan(self, wanted: NDArray[np.int64]) -> Iterator[_Run]:
        """What to decode for the frames `wanted`, which rise: a run for each key frame."""
        times = [self.times[index] for index in wanted]
        for first, group in groupby(times, key=self._key_place):
            members = list(group)
            yield _Run(first, max(self._places[time] for time in members), members)

    def _key_place(self, time: int) -> int:
        """The packet to begin with for the frame that is shown at `time`."""
        return self._keys[bisect_right(self._keys, (time, len(self._places))) - 1][1]


def _read_packets(
    container: InputContainer, stream: VideoStream, limits: DecodeLimits
) -> list[VideoPacket]:
    packets: list[VideoPacket] = []
    size = 0
    with readable():
        for packet in container.demux(stream):
            if packet.size:
                packets.append(packet)
                size += packet.size
            limits.check_count(len(packets))
            if size > MOST_BYTES:
                raise DataError(f"it holds more than {MOST_BYTES >> 20} MiB of video to seek in")
    if not packets:
        raise DataError("it holds no frames that can be decoded")
    return packets


@register_backend("pyav-seek")
def open_seek(source: FileSource, limits: DecodeLimits, num_frames: int | None = None) -> SeekVideo:
    """Opens a checked video with PyAV to decode it from its key frames."""
    return SeekVideo(source, limits, num_frames)
