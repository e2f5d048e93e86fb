"""Videos of decoders that answer lists of frames at once."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from cmaev.data.decode.base import (
    Decoded,
    DecodeLimits,
    Indices,
    Region,
    TimedFrame,
    VideoInfo,
    check_region,
    check_rising,
    decode_by_stream,
)
from cmaev.data.errors import DataError

# uint8 (T, H, W, 3), upright, and seconds (T,) of frames whose indices rise.
Fetch = Callable[[list[int]], tuple[NDArray[np.uint8], NDArray[np.float64]]]
# Frames that are asked for at once, so that few are held beside the answer.
CHUNK: Final = 16


class BatchVideo:
    """A video whose decoder is a function; see `cmaev.data.decode.base.Video`."""

    def __init__(
        self, fetch: Fetch, *, info: VideoInfo, num_frames: int, limits: DecodeLimits
    ) -> None:
        """Checks the first frame.

        Args:
            fetch: decodes frames; raises DataError.
            info: what the header says.
            num_frames: how many frames there are.
            limits: what the file may ask for.

        Raises:
            DataError: if the video is over the limits.
        """
        limits.check_count(num_frames)
        limits.check_size(info.width, info.height)
        self._fetch, self._limits = fetch, limits
        self.info, self.num_frames = info, num_frames
        self._first_time = float(fetch([0])[1][0])

    def decode(self, indices: Indices, *, region: Region | None = None) -> Decoded:
        """The frames at `indices`, in that order."""
        return decode_by_stream(self, indices, region=region, max_bytes=self._limits.max_bytes)

    def stream(self, indices: Indices, *, region: Region | None = None) -> Iterator[TimedFrame]:
        """The frames at rising `indices`, one at a time."""
        wanted = check_rising(indices, self.num_frames).tolist()
        left, top, width, height = check_region(region, self.info)
        whole = self.info.height, self.info.width, 3
        for start in range(0, len(wanted), CHUNK):
            chunk = wanted[start : start + CHUNK]
            frames, times = self._fetch(chunk)
            if frames.shape != (len(chunk), *whole):
                raise DataError(f"frames come as {frames.shape[1:]}, not as {whole}")
            for frame, time in zip(frames, times, strict=True):
                part = frame[top : top + height, left : left + width]
                yield part, float(time) - self._first_time

    def iterate(self) -> Iterator[TimedFrame]:
        """All frames in order, (H, W, 3) each, with their times in seconds."""
        return self.stream(range(self.num_frames))

    def close(self) -> None:
        """Nothing to do: the decoder closes its file when it is forgotten."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
