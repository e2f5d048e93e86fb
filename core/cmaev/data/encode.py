"""What `cmaev data prepare` makes of one video, in a child of limited memory and time.

A short side of a given length, upright, at a constant rate, H.264 in closed groups that each begin
with a key frame, without sound: small to store, and a decoder starts near any frame.

Shapes: H, W, height and width of a frame.
"""

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cmaev.data.check_file import CheckTask, Verdict, check_video
from cmaev.data.decode import DecodeLimits, Video, open_video
from cmaev.data.errors import DataError
from cmaev.data.frame_folder import FrameFolder
from cmaev.data.storage import open_remote

# Headers that claim more are believed less than the number of frames.
_HIGHEST_RATE: Final = 240.0
# Raw frames, and files that do not tell, are taken to be filmed at this rate.
_USUAL_RATE: Final = 25.0
_Frame = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How videos are encoded.

    Attributes:
        short_side: of the frames, in pixels; smaller videos keep their size, made even.
        gop: frames from one key frame to the next.
        rate: frames per second; that of each video where None.
        crf: quality of H.264, smaller is better.
    """

    short_side: int = 256
    gop: int = 12
    rate: float | None = None
    crf: int = 18


@dataclass(frozen=True, kw_only=True)
class EncodeTask:
    """A video to encode.

    Attributes:
        key: names it among the videos of its index.
        source: where it is; a URL as text.
        segment: (start, total) of its frames; all where None.
        out: file to write; it appears when it is whole.
        options: how to encode.
        decoder: the fast decoder to try on the result.
        limits: what the source may ask for.
    """

    key: str
    source: Path | bytes | FrameFolder | str
    segment: tuple[int, int] | None
    out: Path
    options: EncodeOptions
    decoder: str
    limits: DecodeLimits


def encode_video(task: EncodeTask) -> Verdict:
    """Encodes a video and checks the result.

    Raises:
        DataError: if the source cannot be decoded to its end, or holds less than its segment.
        OSError: if the result cannot be written.
    """
    temporary = temporary_name(task.out)
    task.out.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        source = task.source
        opened = stack.enter_context(open_remote(source)) if isinstance(source, str) else source
        video = stack.enter_context(open_video(opened, limits=task.limits))
        rate = _rate(video, task.options)
        frames = constant_rate(
            _timed(video, task.segment, rate), rate, limit=task.limits.max_frames
        )
        count = write_h264(frames, temporary, rate=rate, options=task.options)
    check = CheckTask(key=task.key, source=temporary, decoder=task.decoder, limits=task.limits)
    verdict = check_video(check)
    if verdict.frames != count:
        raise DataError(f"{count} frames were encoded and {verdict.frames} can be decoded")
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, task.out)
    return verdict


def temporary_name(out: Path) -> Path:
    """What a result is called until it is whole."""
    return out.with_name(f".{out.name}.tmp")


def constant_rate(
    frames: Iterable[tuple[_Frame, float]], rate: float, *, limit: int
) -> Iterator[_Frame]:
    """One frame for each 1/rate seconds: the latest that is due, again where none is.

    Frames that come at the rate already are given as they are.

    Raises:
        DataError: if that makes more than `limit` frames.
    """
    held: _Frame | None = None
    given = 0
    for frame, time in frames:
        place = math.floor(time * rate + 0.5)
        if place >= limit:
            raise DataError(f"it has more than {limit} frames at {rate:g} a second; cut it")
        if held is not None:
            yield from itertools.repeat(held, place - given)
            given = max(given, place)
        held = frame
    if held is not None:
        yield held


def write_h264(frames: Iterator[_Frame], path: Path, *, rate: float, options: EncodeOptions) -> int:
    """Writes frames (H, W, 3) as mp4 and returns how many there were.

    Raises:
        DataError: if there are none.
    """
    first = next(frames, None)
    if first is None:
        raise DataError("it holds no frames that can be decoded")
    width, height = _even_size(first.shape[1], first.shape[0], options.short_side)
    reformatter = VideoReformatter()
    settings = {
        "crf": str(options.crf),
        "preset": "fast",
        # Each group stands alone, and frames are stored in the order that they are shown in.
        "x264-params": f"keyint={options.gop}:min-keyint={options.gop}:scenecut=0:open-gop=0"
        ":bframes=0",
    }
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as output:
        stream = output.add_stream(
            "libx264", rate=Fraction(rate).limit_denominator(1001), options=settings
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        count = 0
        for count, array in enumerate(itertools.chain([first], frames), start=1):
            picture = VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame = reformatter.reformat(
                picture, width, height, "yuv420p", interpolation="AREA", threads=1
            )
            frame.pts, frame.time_base = count - 1, 1 / stream.codec_context.framerate
            frame.pict_type = PictureType.NONE
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return count


def _timed(
    video: Video, segment: tuple[int, int] | None, rate: float
) -> Iterator[tuple[_Frame, float]]:
    """The frames of a segment with their times, 0 for the first."""
    frames = iter(video.iterate())
    if not video.info.fps:
        frames = ((frame, number / rate) for number, (frame, _) in enumerate(frames))
    if segment is None:
        yield from frames
        return
    start, total = segment
    count, first = 0, 0.0
    for count, (frame, time) in enumerate(itertools.islice(frames, start, start + total), start=1):
        first = time if count == 1 else first
        yield frame, time - first
    if count < total:
        raise DataError(
            f"it has {start + count if count else 'fewer'} frames, and its row asks for frames "
            f"{start} to {start + total - 1}; correct the row"
        )


def _rate(video: Video, options: EncodeOptions) -> float:
    if options.rate is not None:
        return options.rate
    info = video.info
    if 0 < info.fps <= _HIGHEST_RATE:
        return info.fps
    if info.seconds > 0:
        return min(max(video.num_frames / info.seconds, 1.0), _HIGHEST_RATE)
    return _USUAL_RATE


def _even_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    scale = min(1.0, short_side / min(width, height))
    return tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))  # type: ignore[return-value]
