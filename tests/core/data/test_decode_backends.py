"""Every backend behind the one interface: the same frames, parts of frames, and clear errors."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cmaev.data.decode import DecodeLimits, Region, backend_names, is_available, open_video
from cmaev.data.decode.convert import coded_region
from cmaev.data.errors import DataError
from cmaev.data.frame_folder import FrameFolder


@pytest.fixture(scope="module")
def moving_mp4(encode_video) -> bytes:
    """40 frames of 150x98 pixels that differ everywhere, one group, B-frames."""
    texture = np.random.default_rng(0).integers(0, 255, (98, 300, 3), dtype=np.uint8)
    return encode_video(np.stack([texture[:, 3 * k : 3 * k + 150] for k in range(40)]))


def need(backend: str) -> None:
    if not is_available(backend):
        pytest.skip(f"{backend} is not installed")


@pytest.mark.parametrize("backend", backend_names())
def test_backends_agree(moving_mp4: bytes, tmp_path: Path, backend: str) -> None:
    need(backend)
    path = tmp_path / "a.mp4"
    path.write_bytes(moving_mp4)
    expected = open_video(path).decode(range(40))
    for source in (path, moving_mp4):
        with open_video(source, backend=backend, num_frames=40) as video:
            assert video.num_frames == 40
            assert (video.info.width, video.info.height) == (150, 98)
            for indices in ([39, 0, 17, 17], range(40), [5], range(3, 40, 4)):
                decoded = video.decode(indices)
                np.testing.assert_array_equal(decoded.frames, expected.frames[list(indices)])
                np.testing.assert_allclose(
                    decoded.timestamps, expected.timestamps[list(indices)], atol=1e-3
                )
            frames, times = zip(*video.iterate(), strict=True)
            np.testing.assert_array_equal(np.stack(frames), expected.frames)
            assert len(times) == 40


@pytest.mark.parametrize("backend", backend_names())
def test_a_region_is_that_part_of_the_whole(moving_mp4: bytes, backend: str) -> None:
    need(backend)
    rng = np.random.default_rng(0)
    with open_video(moving_mp4, backend=backend) as video:
        whole = video.decode([3, 20]).frames
        for _ in range(25):
            left, top = int(rng.integers(150)), int(rng.integers(98))
            width, height = int(rng.integers(1, 151 - left)), int(rng.integers(1, 99 - top))
            part = video.decode([3, 20], region=Region(left, top, width, height)).frames
            np.testing.assert_array_equal(part, whole[:, top : top + height, left : left + width])
        with pytest.raises(DataError, match="lies outside frames of 150x98"):
            video.decode([0], region=Region(100, 0, 51, 10))


@given(st.data(), st.integers(0, 3), st.integers(1, 20), st.integers(1, 20))
def test_a_region_of_a_turned_frame(data, quarters: int, width: int, height: int) -> None:
    coded = np.arange(width * height).reshape(height, width)
    upright = np.rot90(coded, quarters)
    h, w = upright.shape
    left, top = data.draw(st.integers(0, w - 1)), data.draw(st.integers(0, h - 1))
    region = Region(
        left, top, data.draw(st.integers(1, w - left)), data.draw(st.integers(1, h - top))
    )
    x, y, across, down = coded_region(region, width, height, quarters)
    np.testing.assert_array_equal(
        np.rot90(coded[y : y + down, x : x + across], quarters),
        upright[top : top + region.height, left : left + region.width],
    )


@pytest.mark.parametrize("backend", backend_names())
@pytest.mark.parametrize("data", [b"", b"this is text, not a video\n" * 40])
def test_what_is_no_video_is_refused_by_all(backend: str, data: bytes) -> None:
    need(backend)
    with pytest.raises(DataError, match="cannot be read as a video"):
        open_video(data, backend=backend)


@pytest.mark.parametrize("backend", backend_names())
def test_limits_hold_for_all(moving_mp4: bytes, backend: str) -> None:
    need(backend)
    for limits, message in (
        (DecodeLimits(max_pixels=150 * 97), "over the limit"),
        (DecodeLimits(max_frames=39), "more than 39 frames"),
        (DecodeLimits(max_seconds=1.5), "longer than"),
    ):
        with pytest.raises(DataError, match=message):
            open_video(moving_mp4, backend=backend, limits=limits)
    small = open_video(moving_mp4, backend=backend, limits=DecodeLimits(max_bytes=150 * 98 * 3))
    assert len(small.decode([7]).frames) == 1
    with pytest.raises(DataError, match="2 frames of 150x98 need"):
        small.decode([7, 8])


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
def test_a_backend_that_is_missing_says_what_to_install(
    moving_mp4: bytes, monkeypatch, backend: str
) -> None:
    for name in [backend, f"{backend}.decoders"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=rf"decoder '{backend}' is not installed.*cmaev\["):
        open_video(moving_mp4, backend=backend)


@pytest.mark.parametrize("backend", ["decord", "pyav-seek", "torchcodec"])
def test_another_count_than_the_checked_one_is_refused(moving_mp4: bytes, backend: str) -> None:
    need(backend)
    with pytest.raises(DataError, match="check it again"):
        open_video(moving_mp4, backend=backend, num_frames=41)


@pytest.fixture
def pictures(tmp_path: Path) -> FrameFolder:
    """Frames 3 to 9 of a folder; frame k has level 20 k."""
    for number in range(1, 12):
        Image.new("RGB", (30, 20), (20 * number,) * 3).save(tmp_path / f"img_{number:05}.png")
    return FrameFolder(tmp_path, "img_{:05}.png", 3, 7)


def test_a_folder_of_frames_is_a_video(pictures: FrameFolder) -> None:
    with open_video(pictures) as video:
        assert video.num_frames == 7
        assert (video.info.width, video.info.height) == (30, 20)
        decoded = video.decode([6, 0, 0], region=Region(1, 2, 3, 4))
    assert decoded.frames.shape == (3, 4, 3, 3)
    assert decoded.frames[:, 0, 0, 0].tolist() == [180, 60, 60]


def test_a_folder_with_a_hole_or_a_bad_frame_is_an_error(pictures: FrameFolder) -> None:
    pictures.frame(4).write_bytes(b"no picture")
    pictures.frame(5).unlink()
    Image.new("RGB", (30, 21)).save(pictures.frame(6))
    video = open_video(pictures)
    for index, message in (
        (4, "frame img_00007.png cannot be read"),
        (5, "there is no frame img_00008.png"),
        (6, r"frames come as \(21, 30, 3\)"),
    ):
        with pytest.raises(DataError, match=message):
            video.decode([index])
    with pytest.raises(DataError, match="over the limit"):
        open_video(pictures, limits=DecodeLimits(max_pixels=599))
