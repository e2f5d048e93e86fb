"""Small real videos made with PyAV, and the folder of real test data where there is one."""

import io
import multiprocessing
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from cmaev.data.loader_pool import PRELOAD
from cmaev.data.sandbox import _Child

# Whichever test starts the fork server, it has what loader processes need.
multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)

EncodeVideo = Callable[..., bytes]


def grey_levels(count: int) -> NDArray[np.uint8]:
    """Frames that can be told apart by their brightness: frame k has level 10 + 4k."""
    return np.stack([np.full((48, 64, 3), 10 + 4 * k, np.uint8) for k in range(count)])


@pytest.fixture(scope="session")
def encode_video() -> EncodeVideo:
    """Encodes frames (T, H, W, 3) as H.264; B-frames, one GOP, closed."""

    def encode(
        frames: NDArray[np.uint8],
        *,
        container: str = "mp4",
        codec: str = "libx264",
        rate: int = 25,
        first_pts: int = 0,
        pts: Sequence[int] | None = None,
        pix_fmt: str = "yuv420p",
        options: dict[str, str] | None = None,
    ) -> bytes:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container) as output:
            stream = output.add_stream(codec, rate=rate, options=options or {"crf": "4"})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = pix_fmt
            stream.time_base = Fraction(1, rate)
            for number, array in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(array, format="rgb24")
                frame.pts = first_pts + (number if pts is None else pts[number])
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def levels_mp4(encode_video: EncodeVideo) -> bytes:
    """40 frames; frame k is grey of level 10 + 4k."""
    return encode_video(grey_levels(40))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real videos that CMAEV_TEST_DATA names."""
    folder = os.environ.get("CMAEV_TEST_DATA")
    if not folder:
        pytest.skip("CMAEV_TEST_DATA is not set: no real videos to test with")
    return Path(folder)


@pytest.fixture
def clock_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that may take 0 seconds take longer, even where the child was quicker to answer."""
    outcome = _Child.outcome

    def late(child: _Child) -> object:
        if child._seconds == 0:
            child.close()
            return child._too_long()
        return outcome(child)

    monkeypatch.setattr(_Child, "outcome", late)
