"""What `cmaev data check` does with one video, in a child of limited memory and time.

The reference decodes all of it. The fast decoder goes along twice, for the even frames and for the
odd ones, and begins afresh at each key frame; so each of its frames is reached by seeking and
skipping, as in training, and each is compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmaev.data.decode import DecodeLimits, FileSource, Video, open_video
from cmaev.data.decode.base import TimedFrame
from cmaev.data.decode.pyav import PyAVVideo
from cmaev.data.decode.seek import SeekVideo
from cmaev.data.errors import DataError
from cmaev.data.frame_folder import FrameFolder
from cmaev.data.storage import read_bytes

# Seconds by which the times of a frame may differ: decord counts in single precision.
TOLERANCE: Final = 1e-3
# Where packets do not tell the key frames, begin at each of so many frames.
_BLIND_STEP: Final = 12


@dataclass(frozen=True, kw_only=True)
class CheckTask:
    """A video to check.

    Attributes:
        key: names it among the videos of its index.
        source: where it is; a URL as text.
        decoder: the fast decoder to compare with the reference.
        limits: what it may ask for.
    """

    key: str
    source: Path | bytes | FrameFolder | str
    decoder: str
    limits: DecodeLimits


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found out about a video.

    Attributes:
        frames: how many can be decoded; 0 if it cannot be used.
        decoder: the fast decoder, if each of its frames equals the reference's; else empty.
        reason: why it cannot be used; empty if it can.
        note: why the fast decoder may not be used; empty if it may.
    """

    frames: int = 0
    decoder: str = ""
    reason: str = ""
    note: str = ""


def check_video(task: CheckTask) -> Verdict:
    """Decodes a whole video by both decoders and compares them.

    Raises:
        DataError: if it cannot be decoded to its end; the reason to keep it out of training.
    """
    source = read_bytes(task.source) if isinstance(task.source, str) else task.source
    if isinstance(source, FrameFolder):
        with open_video(source, limits=task.limits) as video:
            return Verdict(frames=sum(1 for _ in video.iterate()), note="pictures need no other")
    with PyAVVideo(source, task.limits) as reference:
        try:
            parts, note = _follow(source, task, reference)
        except DataError as error:
            parts, note = [], str(error)
        frames, difference = _compare(reference, parts)
    note = note or difference
    return Verdict(frames=frames, decoder="" if note else task.decoder, note=note)


def _follow(
    source: FileSource, task: CheckTask, reference: Video
) -> tuple[list[Iterator[TimedFrame]], str]:
    """The even and the odd frames of the fast decoder; or why it is of no use."""

    def open_fast() -> Video:
        return open_video(source, limits=task.limits, backend=task.decoder)

    with open_fast() as fast:
        ours, theirs = reference.info, fast.info
        if (ours.width, ours.height) != (theirs.width, theirs.height):
            sizes = (f"{info.width}x{info.height}" for info in (theirs, ours))
            return [], "frames are {} instead of {}".format(*sizes)
        starts = _starts(source, task.limits, fast)
        stretches = list(pairwise([*starts, fast.num_frames]))

    def frames(parity: int) -> Iterator[TimedFrame]:
        with open_fast() as first:
            for start, stop in stretches:
                wanted = range(start + (start + parity) % 2, stop, 2)
                if wanted and isinstance(first, SeekVideo):
                    yield from first.stream(wanted)
                elif wanted:
                    # Others go on from where they are, unless they are opened anew.
                    with open_fast() as fresh:
                        yield from fresh.stream(wanted)

    return [frames(0), frames(1)], ""


def _starts(source: FileSource, limits: DecodeLimits, fast: Video) -> Sequence[int]:
    """Where a decoder may begin, as far as the packets tell; for others than ours, halfway too."""
    if isinstance(fast, SeekVideo):
        return fast.starts
    try:
        with SeekVideo(source, limits) as video:
            keys = [start for start in video.starts if start < fast.num_frames]
    except DataError:
        keys = list(range(0, fast.num_frames, _BLIND_STEP))
    halves = ((start + stop) // 2 for start, stop in pairwise([*keys, fast.num_frames]))
    return sorted({*keys, *halves})


def _compare(reference: PyAVVideo, parts: Sequence[Iterator[TimedFrame]]) -> tuple[int, str]:
    """How many frames the reference gives, and where the others differ; empty if nowhere."""
    count, difference = 0, ""
    for count, (frame, time) in enumerate(reference.iterate(), start=1):
        if parts and not difference:
            difference = _differs(parts[(count - 1) % 2], frame, time)
            if difference:
                difference = f"frame {count - 1} {difference}"
    if reference.counted not in (None, count):
        raise DataError(
            f"only {count} of its {reference.counted} frames can be decoded; the file is damaged: "
            "copy or encode it again"
        )
    if parts and not difference and any(next(part, None) is not None for part in parts):
        difference = f"there are more than {count} frames"
    return count, difference


def _differs(part: Iterator[TimedFrame], frame: NDArray[np.uint8], time: float) -> str:
    try:
        other = next(part, None)
    except DataError as error:
        return f"fails: {error}"
    if other is None:
        return "is missing"
    if not np.array_equal(other[0], frame):
        return "differs"
    return "" if abs(other[1] - time) <= TOLERANCE else f"comes at {other[1]:.3f}, not {time:.3f} s"
