"""The reference decoder: right frames, true counts, limits, and a clear error for anything else."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cmaev.data.decode import BACKENDS, DecodeLimits, open_video, register_backend
from cmaev.data.errors import DataError


def levels(frames: np.ndarray) -> list[int]:
    """Which frame of the grey-level video each frame is."""
    return [round((float(frame.mean()) - 10) / 4) for frame in frames]


def test_frames_come_in_the_order_asked_for(levels_mp4: bytes) -> None:
    with open_video(levels_mp4) as video:
        assert video.num_frames == 40
        decoded = video.decode([39, 0, 17, 17, 5])
    assert levels(decoded.frames) == [39, 0, 17, 17, 5]
    assert decoded.frames.shape == (5, 48, 64, 3)
    assert decoded.frames.dtype == np.uint8
    np.testing.assert_allclose(decoded.timestamps, np.array([39, 0, 17, 17, 5]) / 25)


def test_path_bytes_and_file_objects_are_alike(levels_mp4: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a video: strange name.mp4"
    path.write_bytes(levels_mp4)
    expected = open_video(levels_mp4).decode([3, 30]).frames
    with path.open("rb") as file:
        np.testing.assert_array_equal(open_video(file).decode([3, 30]).frames, expected)
    np.testing.assert_array_equal(open_video(path).decode([3, 30]).frames, expected)


def test_iterate_gives_every_frame(levels_mp4: bytes) -> None:
    frames, times = zip(*open_video(levels_mp4).iterate(), strict=True)
    assert levels(np.stack(frames)) == list(range(40))
    assert times[-1] == pytest.approx(39 / 25)


def test_info_is_that_of_the_header(levels_mp4: bytes) -> None:
    info = open_video(levels_mp4).info
    assert (info.width, info.height, info.fps, info.codec) == (64, 48, 25.0, "h264")
    assert info.seconds == pytest.approx(1.6)


@pytest.mark.parametrize(
    ("container", "codec"), [("matroska", "libx264"), ("mpegts", "mpeg2video"), ("avi", "mpeg4")]
)
def test_other_containers_count_and_order_right(encode_video, container: str, codec: str) -> None:
    frames = np.stack([np.full((48, 64, 3), 10 + 4 * k, np.uint8) for k in range(30)])
    data = encode_video(frames, container=container, codec=codec, options={"b": "4000000"})
    with open_video(data) as video:
        assert video.num_frames == 30
        assert levels(video.decode([29, 1, 14]).frames) == [29, 1, 14]


def test_open_gop_is_exact(encode_video) -> None:
    frames = np.stack([np.full((48, 64, 3), 10 + 3 * k, np.uint8) for k in range(60)])
    options = {"crf": "4", "x264-params": "keyint=15:min-keyint=15:open-gop=1:bframes=3:scenecut=0"}
    decoded = open_video(encode_video(frames, options=options)).decode(range(60))
    assert [round((float(frame.mean()) - 10) / 3) for frame in decoded.frames] == list(range(60))


def test_times_start_at_the_first_frame(encode_video) -> None:
    frames = np.zeros((10, 48, 64, 3), np.uint8)
    decoded = open_video(encode_video(frames, first_pts=500)).decode(range(10))
    np.testing.assert_allclose(decoded.timestamps, np.arange(10) / 25, atol=1e-6)


@pytest.mark.parametrize("indices", [[40], [-1], []])
def test_indices_outside_the_video_are_refused(levels_mp4: bytes, indices: list[int]) -> None:
    with pytest.raises(DataError, match=r"outside the video|no frames asked for"):
        open_video(levels_mp4).decode(indices)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (DecodeLimits(max_pixels=64 * 47), "64x48 pixels are over the limit"),
        (DecodeLimits(max_seconds=1.5), "longer than 1.5 seconds"),
        (DecodeLimits(max_frames=39), "more than 39 frames"),
    ],
)
def test_limits_refuse_by_the_header(levels_mp4: bytes, limits: DecodeLimits, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_video(levels_mp4, limits=limits)


def test_limit_on_the_memory_of_one_answer(levels_mp4: bytes) -> None:
    video = open_video(levels_mp4, limits=DecodeLimits(max_bytes=64 * 48 * 3 * 4))
    assert len(video.decode(range(4)).frames) == 4
    with pytest.raises(DataError, match="5 frames of 64x48 need"):
        video.decode(range(5))


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"this is text, not a video\n" * 40, os.urandom(5000)],
    ids=["empty", "one byte", "text", "noise"],
)
def test_what_is_no_video_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="cannot be read as a video"):
        open_video(data)


def test_a_playlist_opens_nothing_else(levels_mp4: bytes, tmp_path: Path) -> None:
    video = tmp_path / "secret.mp4"
    video.write_bytes(levels_mp4)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{video}\n#EXT-X-ENDLIST\n"
    with pytest.raises(DataError, match="cannot be read as a video"):
        open_video(playlist.encode())
    concat = tmp_path / "list.mp4"
    concat.write_text(f"ffconcat version 1.0\nfile '{video}'\n")
    with pytest.raises(DataError, match="cannot be read as a video"):
        open_video(concat)


def test_reasons_hold_no_paths(tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    for candidate in (path, tmp_path / "missing.mp4"):
        with pytest.raises(DataError) as caught:
            open_video(candidate)
        assert str(tmp_path) not in str(caught.value)


def test_a_damaged_file_gives_frames_or_an_error(levels_mp4: bytes) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        data = bytearray(levels_mp4)
        for place in rng.integers(len(data), size=20):
            data[place] ^= 1 << rng.integers(8)
        try:
            video = open_video(bytes(data), limits=DecodeLimits(max_frames=1000))
            assert video.decode([0]).frames.ndim == 4
        except DataError:
            continue


def test_unknown_backend_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown decoder 'nope'; choose one of decord, pyav,"):
        open_video(b"", backend="nope")


def test_a_backend_registers_once(levels_mp4: bytes) -> None:
    open_video(levels_mp4)
    with pytest.raises(ValueError, match="registered already"):
        register_backend("pyav")(BACKENDS["pyav"])


def test_decoding_loads_no_torch() -> None:
    code = (
        "import sys, cmaev, cmaev.data; assert 'numpy' not in sys.modules;"
        "import cmaev.data.decode.pyav, cmaev.data.index, cmaev.data.sampling;"
        "import cmaev.data.transforms;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_files_count_as_a_sequential_decode_does(real_data: Path) -> None:
    with (real_data / "odd" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 40
    for row in rows:
        path = real_data / "odd" / row["path"]
        if row["status"] != "ok":
            with pytest.raises(DataError):
                _decode_ends(path)
            continue
        count, shape, rotation = _decode_ends(path)
        assert count == int(row["frames"]), path
        sides = [int(row["w"]), int(row["h"])]
        assert list(shape[2:0:-1]) == (sides[::-1] if rotation % 180 else sides), path
        assert rotation == int(row["rotation"] or 0) % 360, path


def test_rotated_files_stand_like_the_upright_one(real_data: Path) -> None:
    folder = real_data / "odd" / "real"
    plain = open_video(folder / "made_hevc.mov").decode([0, 30]).frames
    turned = open_video(folder / "made_hevc_rot.mov").decode([0, 30]).frames
    np.testing.assert_array_equal(np.rot90(plain, 1, axes=(1, 2)), turned)


def _decode_ends(path: Path) -> tuple[int, tuple[int, ...], int]:
    with open_video(io.BytesIO(path.read_bytes())) as video:
        last = video.num_frames - 1
        decoded = video.decode([last, 0])
        assert np.isfinite(decoded.timestamps).all()
        assert decoded.timestamps[0] >= decoded.timestamps[1] == 0
        return video.num_frames, decoded.frames.shape, video.info.rotation
