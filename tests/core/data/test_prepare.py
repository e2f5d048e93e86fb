"""Videos encoded anew: what comes out, what is kept of earlier runs, and what bad files cost."""

import csv
import fcntl
import io
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from cmaev.data import cli
from cmaev.data.decode import open_video
from cmaev.data.encode import EncodeOptions, constant_rate
from cmaev.data.errors import DataError
from cmaev.data.index import VideoIndex, open_index
from cmaev.data.prepare import PrepareOptions, PrepareReport, prepare_index
from cmaev_spec.exits import EXIT_BAD_INPUT

SMALL = EncodeOptions(short_side=32, gop=6)


@pytest.fixture
def folder(tmp_path: Path, levels_mp4: bytes) -> Path:
    """Two good videos, one that is none, and an index of them."""
    (tmp_path / "a.mp4").write_bytes(levels_mp4)
    (tmp_path / "b c.mp4").write_bytes(levels_mp4)
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    (tmp_path / "index.csv").write_text("path,label\na.mp4,walk\nb c.mp4,run\nbad.mp4,walk\n")
    return tmp_path


def run(folder: Path, *, encode: EncodeOptions = SMALL, **options: object) -> PrepareReport:
    index = open_index(folder / "index.csv")
    return prepare_index(
        index, out=folder / "out", options=PrepareOptions(encode=encode, **options)
    )


def levels(index: VideoIndex, row: int) -> NDArray[np.float64]:
    """Mean brightness of each frame."""
    with open_video(index.open_source(row)) as video:
        return np.stack([frame.mean() for frame, _ in video.iterate()])


def quarantined(folder: Path) -> list[dict[str, str]]:
    with open(folder / "out" / "quarantine.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_what_comes_out(folder: Path) -> None:
    report = run(folder)
    assert (report.videos, report.encoded) == (3, 3)
    index = open_index(folder / "out")
    assert index.label_names == ("run", "walk")
    assert index.labels.tolist() == [1, 0]
    for row in range(2):
        np.testing.assert_allclose(levels(index, row), 10 + 4 * np.arange(40), atol=2)
        verified = index.verified(row)
        assert verified is not None
        assert (verified.frames, verified.bytes, verified.mtime_ns) == (40, *index.stamp(row))
        assert verified.decoder, "the result is made to be read by a fast decoder"
    (bad,) = quarantined(folder)
    assert bad["path"].endswith("bad.mp4")
    assert bad["place"].endswith("index.csv:4")
    assert "cannot be read as a video" in bad["reason"]
    assert not list((folder / "out").rglob("*.tmp"))


def test_the_form_of_a_result(
    folder: Path, with_sound: Callable[[NDArray[np.uint8]], bytes]
) -> None:
    frames = np.zeros((30, 90, 161, 3), np.uint8)
    frames[:, :, 80:] = 200
    (folder / "a.mp4").write_bytes(with_sound(frames))
    run(folder)
    path = open_index(folder / "out").paths[0]
    assert Path(path).read_bytes().find(b"moov") < Path(path).read_bytes().find(b"mdat")
    with av.open(path) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.width, context.height) == (58, 32)
        assert stream.average_rate == 25
        packets = [packet for packet in container.demux(stream) if packet.size]
    assert [packet.pts for packet in packets] == [packet.dts for packet in packets]
    assert len({b.pts - a.pts for a, b in pairwise(packets)}) == 1
    assert [k for k, packet in enumerate(packets) if packet.is_keyframe] == [0, 6, 12, 18, 24]
    with open_video(Path(path)) as video:
        first = video.decode([0]).frames[0]
    assert first[:, :27].mean() < 10
    assert 190 < first[:, 31:].mean() < 210


@pytest.fixture
def with_sound() -> Callable[[NDArray[np.uint8]], bytes]:
    """Encodes frames and silence."""

    def encode(frames: NDArray[np.uint8]) -> bytes:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="matroska") as output:
            video = output.add_stream("ffv1", rate=25)
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt = "bgr0"
            sound = output.add_stream("aac", rate=8000, layout="mono")
            for array in frames:
                output.mux(video.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            samples = np.zeros((1, 8000), np.float32)
            silence = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            silence.sample_rate = 8000
            output.mux(sound.encode(silence))
            output.mux(video.encode())
            output.mux(sound.encode())
        return buffer.getvalue()

    return encode


def test_rotation_is_applied(real_data: Path, folder: Path) -> None:
    source = real_data / "odd" / "real" / "decord_rot90.mov"
    (folder / "index.csv").write_text(f"path\n{source}\n")
    run(folder, encode=EncodeOptions(short_side=64))
    with open_video(source) as turned, open_video(Path(open_index(folder / "out").paths[0])) as now:
        assert turned.info.rotation in (90, 270)
        assert now.info.rotation == 0
        assert (now.info.width < now.info.height) == (turned.info.width < turned.info.height)


def test_parts_and_folders_of_frames_are_cut_out(folder: Path) -> None:
    (folder / "f").mkdir()
    for number in range(5):
        Image.new("RGB", (64, 48), (40 * number,) * 3).save(folder / "f" / f"img_{number:05}.jpg")
    rows = "path,start,total,label\na.mp4,10,20,x\na.mp4,0,5,y\na.mp4,0,-1,z\na.mp4,30,20,w\n"
    (folder / "index.csv").write_text(rows)
    run(folder)
    index = open_index(folder / "out")
    np.testing.assert_allclose(levels(index, 0), 10 + 4 * np.arange(10, 30), atol=2)
    assert [len(levels(index, row)) for row in (1, 2)] == [5, 40]
    assert index.segment(0) is None
    assert "asks for frames 30 to 49" in quarantined(folder)[0]["reason"]
    (folder / "index.csv").write_text("path,start,total\nf,1,3\n")
    run(folder)
    np.testing.assert_allclose(levels(open_index(folder / "out"), 0), [40, 80, 120], atol=3)


def test_a_given_rate_drops_and_repeats_frames(folder: Path) -> None:
    run(folder, encode=EncodeOptions(short_side=32, rate=12.5))
    half = levels(open_index(folder / "out"), 0)
    np.testing.assert_allclose(half, 10 + 4 * np.arange(0, 41, 2)[: len(half)], atol=6)
    assert len(half) in (20, 21)
    run(folder, encode=EncodeOptions(short_side=32, rate=50))
    double = levels(open_index(folder / "out"), 0)
    assert len(double) == 79
    assert np.all(np.diff(double) > -1)


def test_a_second_run_does_only_what_is_missing_or_changed(folder: Path) -> None:
    run(folder)
    before = {path: path.stat().st_ino for path in (folder / "out").rglob("*.mp4")}
    assert run(folder).encoded == 0
    (folder / "a.mp4").write_bytes((folder / "a.mp4").read_bytes() + b"\0")
    assert run(folder).encoded == 1
    (folder / "bad.mp4").write_bytes((folder / "b c.mp4").read_bytes())
    report = run(folder)
    assert (report.encoded, report.quarantined) == (1, {})
    Path(open_index(folder / "out").paths[1]).unlink()
    assert run(folder).encoded == 1
    assert run(folder, encode=EncodeOptions(short_side=32, gop=7)).encoded == 3
    after = {path: path.stat().st_ino for path in (folder / "out").rglob("*.mp4")}
    assert before.keys() < after.keys(), "a video keeps its name"
    (folder / "b c.mp4").unlink()
    (folder / "index.csv").write_text("path,label\na.mp4,walk\na.mp4,walk\n")
    assert run(folder, encode=EncodeOptions(short_side=32, gop=7)).encoded == 0
    assert len(open_index(folder / "out")) == 2


def test_a_killed_run_goes_on(folder: Path) -> None:
    rows = [f"v{number}.mp4" for number in range(4)]
    for row in rows:
        (folder / row).write_bytes((folder / "a.mp4").read_bytes())
    (folder / "index.csv").write_text("path\n" + "\n".join(rows))
    code = (
        "import os, signal\nfrom cmaev.data.index import open_index\n"
        "from cmaev.data.prepare import *\n"
        f"options = PrepareOptions(encode=EncodeOptions(short_side=32, gop=6))\n"
        f"prepare_index(open_index({str(folder / 'index.csv')!r}), out={str(folder / 'out')!r},\n"
        "    options=options,\n"
        "    progress=lambda done, _: done == 2 and os.kill(os.getpid(), signal.SIGKILL))"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert not (folder / "out" / "index.csv").exists()
    with open(folder / "out" / "prepared.jsonl", "a") as file:
        file.write('{"key": "cut o')
    assert run(folder).encoded == 2
    assert len(open_index(folder / "out")) == 4
    assert not list((folder / "out").rglob("*.tmp"))


@pytest.mark.usefixtures("clock_runs_out")
def test_a_video_that_takes_too_long_costs_only_itself(folder: Path) -> None:
    report = run(folder, seconds=0.0)
    assert sum(report.quarantined.values()) == 3
    assert "longer than 0 seconds" in quarantined(folder)[0]["reason"]
    assert not list((folder / "out").rglob("*.mp4*"))


@pytest.mark.usefixtures("clock_runs_out")
def test_what_broke_a_limit_is_tried_again_under_another_one(folder: Path) -> None:
    assert sum(run(folder, seconds=0.0).quarantined.values()) == 3
    assert run(folder, seconds=0.0).encoded == 0
    again = run(folder)
    assert (again.encoded, sum(again.quarantined.values())) == (3, 1)
    assert run(folder, memory=1 << 30).encoded == 1, "what was made stays"


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "index.csv"],
        ["shard", "index.csv"],
        ["check", "index.csv", "--out"],
        ["split", "index.csv", "--out"],
        ["index", ".", "--out"],
        ["synth"],
    ],
    ids=lambda command: command[0],
)
def test_nothing_is_written_to_a_url(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(folder)
    app = typer.Typer()
    cli.register(app)
    result = CliRunner().invoke(app, [*command, "s3://bucket/out"])
    assert isinstance(result.exception, DataError), result.output
    assert "written to a local folder" in str(result.exception)
    assert not (folder / "s3:").exists()


def test_a_result_that_cannot_be_written_is_no_fault_of_the_video(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "videos").touch()
    with pytest.raises(RuntimeError, match=r"Error: .*videos"):
        run(folder)
    assert not (folder / "out" / "index.csv").exists()


def test_one_process_at_a_time(folder: Path) -> None:
    (folder / "out").mkdir()
    with open(folder / "out" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process writes there"):
            run(folder)


def test_a_state_of_something_else_is_refused(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "prepared.jsonl").write_text('{"key": 1}\n')
    with pytest.raises(DataError, match=r"prepared.jsonl: .* delete it"):
        run(folder)


def test_command(folder: Path) -> None:
    app = typer.Typer()
    cli.register(app)
    arguments = ["prepare", str(folder / "index.csv"), str(folder / "out"), "--size", "32"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == EXIT_BAD_INPUT
    assert "3 videos, 3 encoded now, 1 quarantined" in first.output
    assert "quarantined: 1 x it cannot be read as a video" in first.output
    (folder / "bad.mp4").write_bytes((folder / "a.mp4").read_bytes())
    second = CliRunner().invoke(app, [*arguments, "--json"])
    assert second.exit_code == 0, second.output
    answer = json.loads(second.output)
    assert (answer["videos"], answer["encoded"], answer["quarantined"]) == (3, 1, {})


rates = st.floats(1, 120)


@given(st.integers(1, 60), rates)
def test_constant_rate_changes_nothing_at_that_rate(count: int, rate: float) -> None:
    frames = [(np.full(1, number, np.uint8), number / rate) for number in range(count)]
    assert [int(f[0]) for f in constant_rate(frames, rate, limit=1000)] == list(range(count))


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=30), rates)
def test_constant_rate_shows_what_is_due(gaps: list[float], rate: float) -> None:
    times = np.cumsum([0.0, *gaps])
    frames = [(np.full(1, number, np.uint8), time) for number, time in enumerate(times.tolist())]
    given_frames = [int(frame[0]) for frame in constant_rate(frames, rate, limit=10**6)]
    places = np.floor(times * rate + 0.5).astype(int)
    assert len(given_frames) == places[-1] + 1
    for place, number in enumerate(given_frames):
        assert number == np.flatnonzero(places <= place)[-1]


def test_constant_rate_is_limited() -> None:
    frame = np.zeros(1, np.uint8)
    with pytest.raises(DataError, match="more than 100 frames at 25 a second"):
        list(constant_rate([(frame, 0.0), (frame, 9000.0)], 25.0, limit=100))


# Files whose times leave gaps, which a constant rate fills by repeating frames.
GAPS = {"real/exo_sample.avi": 98, "real/exo_slowmo.mp4": 8, "real/made_vfr.mp4": 54}


@pytest.mark.slow
def test_videos_as_they_are_met_in_the_wild(real_data: Path, tmp_path: Path) -> None:
    with open(real_data / "odd" / "manifest.csv", newline="") as file:
        known = {row["path"]: row for row in csv.DictReader(file)}
    (tmp_path / "index.csv").write_text("path\n" + "".join(f"{path}\n" for path in known))
    index = open_index(tmp_path / "index.csv", root=real_data / "odd")
    options = PrepareOptions(encode=EncodeOptions(short_side=64), workers=2)
    prepare_index(index, out=tmp_path / "out", options=options)
    bad = {str(Path(row["path"]).relative_to(real_data / "odd")) for row in quarantined(tmp_path)}
    assert bad == {path for path, row in known.items() if row["status"] != "ok"}
    good = [row for row in known.values() if row["status"] == "ok"]
    prepared = open_index(tmp_path / "out")
    for number, row in enumerate(good):
        verified = prepared.verified(number)
        assert verified is not None
        assert verified.decoder, row["path"]
        if float(row["fps"]) <= 240:
            assert verified.frames == GAPS.get(row["path"], int(row["frames"])), row["path"]
