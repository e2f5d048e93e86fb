"""One interface over the decoders: open a video, ask for frames by their place in the video.

Frames are counted in presentation order from 0; an answer is uint8 RGB (T, H, W, 3), upright.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from cmaev.data.errors import DataError

Source = Path | bytes | BinaryIO
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


@dataclass(frozen=True, eq=False)
class Decoded:
    """Frames uint8 (T, H, W, 3) and their times in seconds after the first frame, (T,)."""

    frames: NDArray[np.uint8]
    timestamps: NDArray[np.float64]


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

    def decode(self, indices: Indices) -> Decoded:
        """The frames at `indices`, in that order; repeats are allowed.

        Raises:
            DataError: if an index is outside 0 .. num_frames - 1, or the data is broken.
        """
        ...

    def iterate(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
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


Opener = Callable[[Source, DecodeLimits], Video]
BACKENDS: Final[dict[str, Opener]] = {}
_BUILT_IN: Final = {"pyav": "cmaev.data.decode.pyav"}


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


def open_video(
    source: Source, *, limits: DecodeLimits | None = None, backend: str = "pyav"
) -> Video:
    """Opens a video file, its bytes, or a seekable binary file object.

    Args:
        source: where the video is.
        limits: what the file may ask for; the defaults where None.
        backend: name of a registered decoder.

    Raises:
        DataError: with a short reason and without paths, if it is no readable video or is over
            the limits.
        ValueError: for an unknown backend.
    """
    if backend not in BACKENDS and backend in _BUILT_IN:
        importlib.import_module(_BUILT_IN[backend])
    if backend not in BACKENDS:
        choices = ", ".join(sorted({*BACKENDS, *_BUILT_IN}))
        raise ValueError(f"unknown decoder {backend!r}; choose one of {choices}")
    return BACKENDS[backend](source, limits or DecodeLimits())


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
