"""Every frame that a checked index leads to is that of a plain loop over PyAV."""

import csv
import dataclasses
import itertools
from pathlib import Path

import av
import numpy as np
import pytest

from cmaev.data.check import CheckOptions, check_index
from cmaev.data.check_report import CheckReport
from cmaev.data.decode import Region, is_available, open_video
from cmaev.data.decode.auto import open_checked
from cmaev.data.decode.seek import SeekVideo
from cmaev.data.errors import DataError
from cmaev.data.index import Verified, VideoIndex, open_index

Frames = list[np.ndarray]


def plain_frames(source: Path) -> Frames:
    """What a loop over PyAV gives, with nothing of ours in it.

    One thread: several conceal damage in another way.
    """
    frames = []
    with av.open(str(source)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            array = frame.to_ndarray(format="rgb24")
            frames.append(np.rot90(array, round(frame.rotation / 90)))
    return frames


def run_check(index: VideoIndex, out: Path, **options: object) -> CheckReport:
    return check_index(index, out=out, options=CheckOptions(workers=2, **options))


def folder_index(folder: Path) -> VideoIndex:
    names = sorted(path.name for path in folder.iterdir() if path.suffix not in (".csv", ""))
    listing = folder / "index.csv"
    listing.write_text("path\n" + "".join(f"{name}\n" for name in names))
    return open_index(listing)


def assert_as_reference(index: VideoIndex, row: int, frames: Frames) -> None:
    """Lists of every kind that sampling asks for, in one open video each, and a part of a frame."""
    verified = index.verified(row)
    assert verified is not None
    assert verified.frames == len(frames)
    rng = np.random.default_rng(row)
    n = len(frames)
    clip = np.minimum(rng.integers(n) + np.arange(16) * 4, n - 1)
    lists = [np.array([n - 1, 0, n // 2, n // 2, rng.integers(n)]), clip]
    height, width = frames[0].shape[:2]
    part = Region(width // 3, height // 4, max(width // 2, 1), max(height // 2, 1))
    left, top, right, bottom = part.left, part.top, part.left + part.width, part.top + part.height
    for number, indices in enumerate(lists):
        cut = number % 2 == 1
        with open_checked(index.open_source(row), verified=verified) as video:
            decoded = video.decode(indices, region=part if cut else None)
        for place, frame in zip(indices, decoded.frames, strict=True):
            expected = frames[place][top:bottom, left:right] if cut else frames[place]
            np.testing.assert_array_equal(frame, expected, err_msg=index.paths[row])


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, encode_video) -> Path:
    """What decoders get wrong, each kind as a file."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (130, 200, 3))
    steps = [np.roll(noise, 3 * k, axis=1)[:96, :130] // 2 + k for k in range(60)]
    frames = np.stack(steps).astype(np.uint8)
    x264 = "keyint=15:min-keyint=15:scenecut=0:bframes=3:"
    vfr = np.cumsum(rng.integers(1, 9, size=60)).tolist()
    plain = {"crf": "20"}
    files = {
        "closed.mp4": {"options": {**plain, "x264-params": x264 + "open-gop=0"}},
        "open.mp4": {"options": {**plain, "x264-params": x264 + "open-gop=1"}},
        "open.ts": {
            "container": "mpegts",
            "options": {**plain, "x264-params": x264 + "open-gop=1"},
        },
        "long.mkv": {
            "container": "matroska",
            "options": {**plain, "x264-params": "keyint=250:scenecut=0:bframes=8:b-pyramid=normal"},
        },
        "refresh.mp4": {"options": {**plain, "x264-params": "keyint=15:intra-refresh=1"}},
        "vfr.mp4": {"pts": vfr, "options": plain},
        "ten.mp4": {"pix_fmt": "yuv420p10le", "options": plain},
        "full.mp4": {"pix_fmt": "yuv444p", "options": plain},
        "mpeg2.ts": {
            "container": "mpegts",
            "codec": "mpeg2video",
            "options": {"bf": "2", "g": "12"},
        },
        "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=15:log-level=none"}},
        "vp9.webm": {"container": "webm", "codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
        "mpeg4.avi": {"container": "avi", "codec": "mpeg4", "options": {"bf": "2"}},
        "one.mp4": {"options": plain, "count": 1},
    }
    for name, how in files.items():
        number = how.pop("count", 60)
        (folder / name).write_bytes(encode_video(frames[:number], **how))
    _write_edit_list(folder / "closed.mp4", folder / "edit.mp4")
    flipped = bytearray((folder / "long.mkv").read_bytes())
    for place in rng.integers(len(flipped) // 4, len(flipped), size=12):
        flipped[place] ^= 1 << int(rng.integers(8))
    (folder / "flipped.mkv").write_bytes(flipped)
    return folder


def _write_edit_list(source: Path, target: Path) -> None:
    """Begins in the middle of a group, as a cut without encoding does."""
    with (
        av.open(str(source)) as read,
        av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as write,
    ):
        stream = read.streams.video[0]
        copy = write.add_stream_from_template(stream)
        shift = int(22 / 25 / stream.time_base)
        for packet in read.demux(stream):
            if packet.dts is None:
                continue
            if packet.pts < int(15 / 25 / stream.time_base):
                continue
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
            write.mux(packet)


@pytest.fixture(scope="session")
def made_verified(made: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    return open_index(run_check(folder_index(made), tmp_path_factory.mktemp("out")).verified)


def test_made_files_are_read_as_the_reference_reads_them(made_verified: VideoIndex) -> None:
    for row in range(len(made_verified)):
        frames = plain_frames(Path(made_verified.paths[row]))
        assert_as_reference(made_verified, row, frames)


def test_made_files_are_told_apart(made: Path, made_verified: VideoIndex) -> None:
    found = {
        Path(path).name: made_verified.verified(row) for row, path in enumerate(made_verified.paths)
    }
    assert found.keys() == {path.name for path in made.iterdir() if path.suffix != ".csv"}
    fast = {name for name, verified in found.items() if verified.decoder}
    assert {"closed.mp4", "open.mp4", "long.mkv", "vfr.mp4", "ten.mp4", "full.mp4"} <= fast
    assert found["edit.mp4"].frames < 45, "frames before the edit list's start are not shown"
    assert found["one.mp4"].frames == 1
    assert "refresh.mp4" not in fast, (
        "decoding cannot begin where the picture is refreshed in parts"
    )


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_other_decoders_are_held_to_the_same(made: Path, tmp_path: Path, decoder: str) -> None:
    if not is_available(decoder):
        pytest.skip(f"{decoder} is not installed")
    report = run_check(folder_index(made), tmp_path, decoder=decoder)
    index = open_index(report.verified)
    assert {verified.decoder for row in range(len(index)) if (verified := index.verified(row))} == {
        decoder,
        "",
    }
    for row in range(len(index)):
        assert_as_reference(index, row, plain_frames(Path(index.paths[row])))


def test_real_files_are_read_as_the_reference_reads_them(real_data: Path, tmp_path: Path) -> None:
    _check_real(real_data / "odd", tmp_path, decoder="pyav-seek", at_least=38)


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "at_least"), [("decord", 25), ("torchcodec", 25)])
def test_real_files_by_other_decoders(real_data, tmp_path, decoder: str, at_least: int) -> None:
    if not is_available(decoder):
        pytest.skip(f"{decoder} is not installed")
    _check_real(real_data / "odd", tmp_path, decoder=decoder, at_least=at_least)


def _check_real(odd: Path, tmp_path: Path, *, decoder: str, at_least: int) -> None:
    with (odd / "manifest.csv").open() as file:
        rows = {str(odd / row["path"]): row for row in csv.DictReader(file)}
    listing = tmp_path / "index.csv"
    listing.write_text("path\n" + "".join(f"{path}\n" for path in rows))
    report = run_check(open_index(listing), tmp_path / "out", decoder=decoder)
    index = open_index(report.verified)
    assert set(index.paths) == {path for path, row in rows.items() if row["status"] == "ok"}
    assert report.fast >= at_least
    for row, path in enumerate(index.paths):
        frames = plain_frames(Path(path))
        assert len(frames) == int(rows[path]["frames"])
        assert_as_reference(index, row, frames)


def test_where_the_fast_decoder_fails_the_reference_goes_on(
    tmp_path: Path, levels_mp4: bytes, monkeypatch
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(levels_mp4)
    status = path.stat()
    verified = Verified(
        frames=40, decoder="pyav-seek", bytes=status.st_size, mtime_ns=status.st_mtime_ns
    )
    expected = open_video(path).decode(range(40)).frames
    real = SeekVideo.stream

    def fails_after_three(self, indices, *, region=None):
        yield from itertools.islice(real(self, indices, region=region), 3)
        raise DataError("another version of the decoder")

    monkeypatch.setattr(SeekVideo, "stream", fails_after_three)
    with open_checked(path, verified=verified) as video:
        np.testing.assert_array_equal(video.decode(range(40)).frames, expected)
        assert not video.fast
    with open_checked(path, verified=verified) as video:
        frames = video.decode(range(3)).frames
        np.testing.assert_array_equal(frames, expected[:3], "it fails when nothing is left to do")
    with open_checked(path, verified=dataclasses.replace(verified, frames=39)) as video:
        assert not video.fast, "the count is another one, so it is no longer trusted"
