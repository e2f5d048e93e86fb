"""One interface over the decoders: open a video, ask for frames by their place in the video.

Frames are counted in presentation order from 0; an answer is uint8 RGB (T, H, W, 3), upright.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import BinaryIO, Final, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from cmaev.data.errors import DataError
from cmaev.data.frame_folder import FrameFolder

FileSource = Path | bytes | BinaryIO
Source = FileSource | FrameFolder
Indices = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What a file may ask for; more is refused, by its header where that tells.

    Attributes:
        max_pixels: largest width x height of a frame.
        max_frames: most frames in a video.
        max_seconds: longest video.
        max_bytes: most memory for the frames of one answer.
    """

    max_pixels: int = 4096 * 2304
    max_frames: int = 216_000
    max_seconds: float = 3600.0
    max_bytes: int = 2 << 30

    def check_size(self, width: int, height: int) -> None:
        """Refuses frames that are too large by a `DataError`."""
        if width * height > self.max_pixels:
            raise DataError(
                f"its frames of {width}x{height} pixels are over the limit of "
                f"{self.max_pixels} pixels; scale it down"
            )

    def check_time(self, seconds: float) -> None:
        """Refuses a video that is too long by a `DataError`."""
        if seconds > self.max_seconds:
            raise DataError(f"it is longer than {self.max_seconds:g} seconds; cut it")

    def check_count(self, count: int) -> None:
        """Refuses a video of too many frames by a `DataError`."""
        if count > self.max_frames:
            raise DataError(f"it has more than {self.max_frames} frames; cut it")


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What the header says, upright; trust `Video.num_frames` for the count."""

    width: int
    height: int
    fps: float
    seconds: float
    codec: str
    container: str
    rotation: int
    """Degrees counter-clockwise that the frames are turned by to stand upright."""


class Region(NamedTuple):
    """A rectangle of whole pixels of the upright frame."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Decoded:
    """Frames uint8 (T, H, W, 3) and their times in seconds after the first frame, (T,)."""

    frames: NDArray[np.uint8]
    timestamps: NDArray[np.float64]


TimedFrame = tuple[NDArray[np.uint8], float]


class Video(Protocol):
    """An open video."""

    @property
    def info(self) -> VideoInfo:
        """What the header says."""
        ...

    @property
    def num_frames(self) -> int:
        """How many frames can be decoded; headers are not believed."""
        ...

    def decode(self, indices: Indices, *, region: Region | None = None) -> Decoded:
        """The frames at `indices`, in that order; repeats are allowed.

        Args:
            indices: of one view or of all of them: what they share is decoded once.
            region: the part of every frame to give, the same pixels as when it is cut out of the
                whole frame afterwards, for less work; None for all of it.

        Raises:
            DataError: if an index is outside 0 .. num_frames - 1, the region outside the frame, or
                the data is broken.
        """
        ...

    def stream(self, indices: Indices, *, region: Region | None = None) -> Iterator[TimedFrame]:
        """The frames at `indices`, which must rise, one (H, W, 3) array at a time.

        Raises:
            DataError: as `decode` does.
        """
        ...

    def iterate(self) -> Iterator[TimedFrame]:
        """All frames in order with their times; one (H, W, 3) array at a time."""
        ...

    def close(self) -> None:
        """Releases the file."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


Opener = Callable[[FileSource, DecodeLimits, int | None], Video]
BACKENDS: Final[dict[str, Opener]] = {}
_BUILT_IN: Final = {
    "decord": "cmaev.data.decode.decord",
    "pyav": "cmaev.data.decode.pyav",
    "pyav-seek": "cmaev.data.decode.seek",
    "torchcodec": "cmaev.data.decode.torchcodec",
}


class _Need(NamedTuple):
    """What a backend needs besides PyAV, and how to get it."""

    module: str
    how: str


_NEEDED: Final = {
    "decord": _Need("decord", "on Linux x86-64, run `pip install 'cmaev[train]'`"),
    "torchcodec": _Need(
        "torchcodec.decoders",
        "install FFmpeg's libraries (`apt install ffmpeg`) and run "
        "`pip install 'cmaev[torchcodec]'`",
    ),
}


def register_backend(name: str) -> Callable[[Opener], Opener]:
    """Adds a decoder under `name`.

    Raises:
        ValueError: if the name is taken.
    """

    def add(opener: Opener) -> Opener:
        if name in BACKENDS:
            raise ValueError(f"decoder {name!r} is registered already")
        BACKENDS[name] = opener
        return opener

    return add


def is_available(name: str) -> bool:
    """Whether there is a decoder `name` and what it needs is installed."""
    known = name in BACKENDS or name in _BUILT_IN
    return known and (name not in _NEEDED or importlib.util.find_spec(name) is not None)


def needed_module(name: str) -> str | None:
    """The module that decoder `name` needs besides PyAV."""
    return _NEEDED[name].module if name in _NEEDED else None


def require_module(name: str) -> ModuleType:
    """Imports what the decoder `name` needs.

    Raises:
        DataError: that says what to install.
    """
    need = _NEEDED[name]
    try:
        return importlib.import_module(need.module)
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"the decoder {name!r} is not installed ({reason}); {need.how}, or use another decoder"
        ) from None


def backend_names() -> list[str]:
    """Names of all decoders, installed or not."""
    return sorted({*BACKENDS, *_BUILT_IN})


def open_video(
    source: Source,
    *,
    limits: DecodeLimits | None = None,
    backend: str = "pyav",
    num_frames: int | None = None,
) -> Video:
    """Opens a video file, its bytes, a seekable binary file object, or a folder of frames.

    The default backend is right for every file. The others are right only for files of which
    `cmaev data check` found that they are; see `cmaev.data.decode.auto`.

    Args:
        source: where the video is; a folder of frames needs no backend.
        limits: what the file may ask for; the defaults where None.
        backend: name of a registered decoder.
        num_frames: how many frames it has, where that is known for certain; saves counting.

    Raises:
        DataError: with a short reason and without paths, if it is no readable video, is over the
            limits, or the backend is not installed.
        ValueError: for an unknown backend.
    """
    limits = limits or DecodeLimits()
    if isinstance(source, FrameFolder):
        from cmaev.data.decode.frames import open_frames

        return open_frames(source, limits)
    if backend not in BACKENDS and backend in _BUILT_IN:
        importlib.import_module(_BUILT_IN[backend])
    if backend not in BACKENDS:
        choices = ", ".join(backend_names())
        raise ValueError(f"unknown decoder {backend!r}; choose one of {choices}")
    return BACKENDS[backend](source, limits, num_frames)


def check_indices(indices: Indices, num_frames: int) -> NDArray[np.int64]:
    """`indices` as an array (T,) that lies inside the video.

    Raises:
        DataError: if one does not, or there is none.
    """
    wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
    if not wanted.size:
        raise DataError("no frames asked for")
    low, high = int(wanted.min()), int(wanted.max())
    if low < 0 or high >= num_frames:
        raise DataError(
            f"frame {low if low < 0 else high} is outside the video, which has {num_frames} frames"
        )
    return wanted


def check_rising(indices: Indices, num_frames: int) -> NDArray[np.int64]:
    """`indices` as an array (T,) that rises and lies inside the video; for `Video.stream`.

    Raises:
        DataError: if one lies outside, or there is none.
    """
    wanted = check_indices(indices, num_frames)
    assert (np.diff(wanted) > 0).all(), "the indices of a stream must rise"
    return wanted


def check_region(region: Region | None, info: VideoInfo) -> Region:
    """`region`, or the whole frame where None.

    Raises:
        DataError: if it does not lie inside the frame.
    """
    if region is None:
        return Region(0, 0, info.width, info.height)
    left, top, width, height = region
    inside = 0 <= left < left + width <= info.width and 0 <= top < top + height <= info.height
    if not inside:
        raise DataError(f"{region} lies outside frames of {info.width}x{info.height}")
    return region


def decode_by_stream(
    video: Video, indices: Indices, *, region: Region | None, max_bytes: int
) -> Decoded:
    """`Video.decode` of every backend: streams each distinct frame once, into one array.

    Raises:
        DataError: as `Video.decode` does, or if the answer is over `max_bytes`.
    """
    wanted = check_indices(indices, video.num_frames)
    unique, places = np.unique(wanted, return_inverse=True)
    frames: NDArray[np.uint8] | None = None
    times = np.empty(len(unique), dtype=np.float64)
    for place, (frame, time) in enumerate(video.stream(unique, region=region)):
        if frames is None:
            _check_memory(len(wanted), frame, max_bytes)
            frames = np.empty((len(unique), *frame.shape), dtype=np.uint8)
        frames[place], times[place] = frame, time
    assert frames is not None, "a stream gives what it is asked for, or raises"
    if len(unique) == len(wanted) and np.array_equal(unique, wanted):
        return Decoded(frames, times)
    return Decoded(frames[places], times[places])


def _check_memory(count: int, frame: NDArray[np.uint8], max_bytes: int) -> None:
    size = count * frame.size
    if size > max_bytes:
        height, width = frame.shape[:2]
        raise DataError(
            f"{count} frames of {width}x{height} need {size:,} bytes of memory, more than the "
            f"{max_bytes:,} allowed"
        )
