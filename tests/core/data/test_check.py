"""`cmaev data check`: what it finds, keeps and says."""

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cmaev.data.check import STATE, CheckOptions, check_index, default_folder
from cmaev.data.check_file import CheckTask, check_video
from cmaev.data.check_report import CheckReport
from cmaev.data.decode import DecodeLimits
from cmaev.data.decode.auto import open_checked
from cmaev.data.decode.pyav import PyAVVideo
from cmaev.data.errors import DataError
from cmaev.data.index import VideoIndex, open_index
from cmaev.data.sandbox import run_limited


def run_check(index: VideoIndex, out: Path, **options: object) -> CheckReport:
    return check_index(index, out=out, options=CheckOptions(workers=2, **options))


def test_a_bomb_is_refused_by_its_header(encode_video) -> None:
    bomb = encode_video(
        np.zeros((1, 8192, 8192, 3), np.uint8), options={"preset": "ultrafast", "threads": "1"}
    )
    assert len(bomb) < 1 << 20
    task = CheckTask(key="", source=bomb, decoder="pyav-seek", limits=DecodeLimits())
    with pytest.raises(DataError, match="8192x8192 pixels are over the limit"):
        run_limited(check_video, task, memory=300 << 20)


@pytest.fixture
def videos(tmp_path: Path, levels_mp4: bytes) -> Path:
    """Three good videos and one that ends early."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.mp4").write_bytes(levels_mp4)
    (folder / "torn.mp4").write_bytes(levels_mp4[: len(levels_mp4) // 2])
    (tmp_path / "index.csv").write_text(
        "path,label\nvideos/a.mp4,cat\nvideos/b.mp4,dog\nvideos/torn.mp4,dog\nvideos/a.mp4,cat\n"
        "videos/c.mp4,dog\n"
    )
    return tmp_path


def cli(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cmaev", "data", "check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_both_lists_and_says_by_its_code_what_it_found(videos: Path) -> None:
    done = cli(videos / "index.csv", "--json", "--workers", 2)
    assert done.returncode == 64, done.stderr
    report = json.loads(done.stdout)
    assert (report["videos"], report["checked"], report["fast"]) == (5, 4, 4)
    folder = default_folder(str(videos / "index.csv"))
    assert report["verified"] == str(folder / "verified.csv")
    index = open_index(folder / "verified.csv")
    assert [index.label_name(row) for row in range(4)] == ["cat", "dog", "cat", "dog"]
    status = os.stat(index.paths[0])
    verified = index.verified(0)
    assert (verified.frames, verified.decoder) == (40, "pyav-seek")
    assert (verified.bytes, verified.mtime_ns) == (status.st_size, status.st_mtime_ns)
    with (folder / "quarantine.csv").open() as file:
        (bad,) = csv.DictReader(file)
    assert (Path(bad["path"]).name, bad["label"]) == ("torn.mp4", "dog")
    assert bad["place"].endswith("index.csv:4")
    assert "cannot be read" in bad["reason"]


def test_the_command_is_content_when_all_are_good(videos: Path) -> None:
    (videos / "videos" / "torn.mp4").write_bytes((videos / "videos" / "a.mp4").read_bytes())
    done = cli(videos / "index.csv", "--out", videos / "out")
    assert done.returncode == 0, done.stderr
    assert "5 videos, 4 checked now: 5 for the fast decoder, 0 for the reference" in done.stdout
    assert "videos 4/4" in done.stdout


def test_a_later_check_looks_at_what_changed(videos: Path) -> None:
    index = open_index(videos / "index.csv")
    assert run_check(index, videos / "out").checked == 4
    again = run_check(index, videos / "out")
    assert (again.checked, again.fast, sum(again.quarantined.values())) == (0, 4, 1)
    os.utime(videos / "videos" / "b.mp4", ns=(1, 1))
    assert run_check(index, videos / "out").checked == 1
    assert run_check(index, videos / "out", seconds=200).checked == 1, (
        "a limit may have been broken"
    )


def test_a_check_that_was_cut_off_goes_on(videos: Path) -> None:
    index = open_index(videos / "index.csv")
    first = run_check(index, videos / "out")
    state = videos / "out" / STATE
    lines = state.read_bytes().splitlines(keepends=True)
    state.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    again = run_check(index, videos / "out")
    assert again.checked == 2
    assert (again.fast, again.quarantined) == (first.fast, first.quarantined)


def test_a_killed_check_keeps_what_it_did(videos: Path, levels_mp4: bytes) -> None:
    names = [f"many{number}.mp4" for number in range(30)]
    for name in names:
        shutil.copy(videos / "videos" / "a.mp4", videos / name)
    (videos / "many.csv").write_text("path\n" + "\n".join(names) + "\n")
    command = [sys.executable, "-m", "cmaev", "data", "check", str(videos / "many.csv")]
    state = default_folder(str(videos / "many.csv")) / STATE
    with subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL) as process:
        for _ in itertools.count():
            if process.poll() is not None or (state.exists() and state.stat().st_size):
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = len(state.read_bytes().splitlines())
    report = run_check(open_index(videos / "many.csv"), state.parent)
    assert done > 0
    assert 30 - done <= report.checked <= 30 - done + 1
    assert report.fast == 30


def test_a_broken_limit_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "never.mp4").touch()
    (tmp_path / "index.csv").write_text("path\nnever.mp4\n")
    index = open_index(tmp_path / "index.csv")
    (tmp_path / "never.mp4").unlink()
    os.mkfifo(tmp_path / "never.mp4")  # nobody writes to it: reading it never ends
    report = run_check(index, tmp_path / "out", seconds=1.0)
    ((reason, count),) = report.quarantined.items()
    assert "longer than 1 seconds" in reason
    assert count == 1


def test_a_file_that_changed_since_is_read_by_the_reference(
    videos: Path, encode_video, levels_mp4: bytes
) -> None:
    index = open_index(run_check(open_index(videos / "index.csv"), videos / "out").verified)
    other = encode_video(np.full((7, 48, 64, 3), 99, np.uint8))
    (videos / "videos" / "a.mp4").write_bytes(other)
    with open_checked(index.open_source(0), verified=index.verified(0)) as video:
        assert video.num_frames == 7
        assert isinstance(video, PyAVVideo)
    with open_checked(index.open_source(1), verified=index.verified(1)) as video:
        assert video.num_frames == 40
        assert video.fast


@pytest.mark.parametrize("decoder", ["pyav", "nope"])
def test_a_decoder_that_is_not_fast_is_refused(videos: Path, decoder: str) -> None:
    done = cli(videos / "index.csv", "--decoder", decoder)
    assert done.returncode == 64
    assert "choose one of decord, pyav-seek, torchcodec" in done.stderr


def test_a_state_of_something_else_is_refused(videos: Path) -> None:
    (videos / "out").mkdir()
    (videos / "out" / STATE).write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="it is no state of `check`"):
        run_check(open_index(videos / "index.csv"), videos / "out")
