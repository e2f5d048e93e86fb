"""Shards: written whole, gone on with, read back as they went in, and others' shards."""

import io
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cmaev.data import cli
from cmaev.data.decode import open_video
from cmaev.data.errors import DataError
from cmaev.data.index import NO_LABEL, Verified, VideoIndex, open_index
from cmaev.data.shard_write import write_shards


@pytest.fixture
def index(tmp_path: Path, levels_mp4: bytes) -> VideoIndex:
    """Five rows: three files of different content and a name that needs quotes, one unlabelled."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name, content in (("a.mp4", levels_mp4), ('b "c", d.MKV', b"two" * 700), ("e.mp4", b"")):
        (folder / name).write_bytes(content)
    status = (folder / "a.mp4").stat()
    lines = [
        "path,label,start,total,frames,decoder,bytes,mtime_ns",
        f"a.mp4,walk,0,-1,40,decord,{status.st_size},{status.st_mtime_ns}",
        '"b ""c"", d.MKV",run,0,-1,,,,',
        "e.mp4,,0,-1,7,decord,1,1",
        "a.mp4,run,3,20,,,,",
        "a.mp4,sit,30,10,,,,",
    ]
    (folder / "index.csv").write_text("\n".join(lines))
    return open_index(folder)


def content(index: VideoIndex, row: int) -> bytes:
    source = index.open_source(row)
    return source.read_bytes() if isinstance(source, Path) else source  # type: ignore[return-value]


def labels(index: VideoIndex) -> list[str | None]:
    return [None if k == NO_LABEL else index.label_names[k] for k in index.labels.tolist()]


@pytest.mark.parametrize("per_shard", [1, 2, 5, 100])
def test_shards_hold_what_the_index_lists(
    index: VideoIndex, tmp_path: Path, per_shard: int
) -> None:
    count = write_shards(index, tmp_path / "out", videos_per_shard=per_shard)
    assert count == -(-len(index) // per_shard)
    read = open_index(tmp_path / "out")
    rows = range(len(index))
    assert [content(read, row) for row in rows] == [content(index, row) for row in rows]
    assert labels(read) == labels(index)
    assert [read.segment(row) for row in rows] == [None, None, None, (3, 20), (30, 10)]
    assert read.verified(0) == Verified(40, "decord", index.stamp(0)[0], -1)
    assert read.verified(2) is None, "the file is not the one that was checked"
    source = read.open_source(0)
    assert isinstance(source, bytes)
    with open_video(source) as video:
        assert video.num_frames == 40


def test_other_readers_find_the_layout_of_webdataset(index: VideoIndex, tmp_path: Path) -> None:
    write_shards(index, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        names = tar.getnames()
        label = tar.extractfile("000001.cls")
        assert label is not None
        assert label.read() == b"0"
    assert names[:4] == ["000000.mp4", "000000.cls", "000000.json", "000001.mkv"]
    assert "000002.cls" not in names


def test_shards_end_before_they_get_too_large(index: VideoIndex, tmp_path: Path) -> None:
    size = index.stamp(0)[0]
    assert write_shards(index, tmp_path / "out", shard_bytes=size + 100) == 4
    assert len(open_index(tmp_path / "out" / "*.tar")) == len(index)


def test_a_second_call_writes_only_what_changed(index: VideoIndex, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_shards(index, out, videos_per_shard=1)
    before = {path.name: path.stat().st_ino for path in out.iterdir()}
    write_shards(index, out, videos_per_shard=1)
    same = {path.name: path.stat().st_ino for path in out.glob("*.tar")}
    assert same.items() <= before.items()
    Path(index.paths[1]).write_bytes(b"else")
    (out / "shard-000002.tar").write_bytes(b"cut off")
    write_shards(index, out, videos_per_shard=1)
    after = {path.name: path.stat().st_ino for path in out.glob("*.tar")}
    assert {name[-5] for name in after if after[name] == before[name]} == set("034")
    assert content(open_index(out), 1) == b"else"
    assert not list(out.glob("*.tmp")), "no temporary files are left"


def test_what_a_killed_run_left_is_overwritten(index: VideoIndex, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import os, signal, sys\n"
        "from cmaev.data import shard_write\n"
        "from cmaev.data.index import open_index\n"
        "shard_write.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"shard_write.write_shards(open_index({index.source!r}), {str(out)!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in out.glob("*.tmp")] == [".shard-000000.tar.tmp"]
    write_shards(index, out)
    assert not list(out.glob("*.tmp"))


def test_two_runs_do_not_write_to_one_folder(index: VideoIndex, tmp_path: Path) -> None:
    def second(done: int) -> None:
        with pytest.raises(DataError, match="another process writes there"):
            write_shards(index, tmp_path / "out")

    write_shards(index, tmp_path / "out", progress=second)


def test_while_shards_change_no_index_promises_them(index: VideoIndex, tmp_path: Path) -> None:
    write_shards(index, tmp_path / "out", videos_per_shard=1)
    Path(index.paths[1]).write_bytes(b"else")
    Path(index.paths[2]).unlink()
    with pytest.raises(DataError, match=r"e.mp4: there is no such file"):
        write_shards(index, tmp_path / "out", videos_per_shard=1)
    assert (tmp_path / "out" / "index.csv").exists(), "no shard has changed yet"
    Path(index.paths[2]).mkdir()
    with pytest.raises(DataError, match=r"index.csv:4: .*e.mp4: .*it cannot be read"):
        write_shards(index, tmp_path / "out", videos_per_shard=1)
    assert not (tmp_path / "out" / "index.csv").exists()


def test_changed_labels_are_written(index: VideoIndex, tmp_path: Path) -> None:
    write_shards(index, tmp_path / "out")
    path = Path(index.source)
    path.write_text(path.read_text().replace(",walk,", ",stand,"))
    write_shards(open_index(path), tmp_path / "out")
    assert labels(open_index(tmp_path / "out" / "shard-000000.tar"))[0] == "stand"


def test_another_division_asks_for_another_folder(index: VideoIndex, tmp_path: Path) -> None:
    write_shards(index, tmp_path / "out", videos_per_shard=1)
    with pytest.raises(DataError, match=r"shard-000002.tar is of another division"):
        write_shards(index, tmp_path / "out", videos_per_shard=3)
    with pytest.raises(DataError, match="written to a local folder"):
        write_shards(index, "s3://bucket/out")
    with pytest.raises(DataError, match="written to a local folder"):
        write_shards(index, Path("s3://bucket/out"))  # which takes a slash from it


def test_a_short_or_missing_shard_is_named(index: VideoIndex, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_shards(index, out)
    shard = out / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"shard-000000.tar: it has 2000 bytes of at least"):
        open_index(out)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-000000.tar: there is no such file"):
        open_index(out)
    (out / "index.csv").write_text("path,offset,bytes\na.mp4,0,9\n")
    with pytest.raises(DataError, match=r"index.csv:2: .*a.mp4 is no TAR/MEMBER, .* `offset`"):
        open_index(out)


def test_shards_of_others_are_scanned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAEV_CACHE_DIR", str(tmp_path / "cache"))
    members = {
        "x/one.mp4": b"1" * 600,
        "x/one.cls": b"3\n",
        "x/two.left.mp4": b"2",
        "x/two.json": b'{"label": "0", "more": 1}',
        "x/two.cls": b"9",
        "three.webm": b"",
        "readme.txt": b"text",
    }
    with tarfile.open(tmp_path / "data-7.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.pax_headers = {"comment": "é" * 300}
            tar.addfile(member, io.BytesIO(data))
    for path in (tmp_path / "data-7.tar", tmp_path / "data-*.tar", tmp_path):
        index = open_index(path)
        assert [content(index, row) for row in range(3)] == [b"1" * 600, b"2", b""]
        assert index.labels.tolist() == [3, 0, NO_LABEL]
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 3
    whole = (tmp_path / "data-7.tar").read_bytes()
    (tmp_path / "data-7.tar").write_bytes(whole[:1900])
    with pytest.raises(DataError, match=r"data-7.tar: it is no whole tar file"):
        open_index(tmp_path / "data-7.tar")
    with pytest.raises(DataError, match="no shards match"):
        open_index(tmp_path / "nothing-*.tar")


def test_command(index: VideoIndex, tmp_path: Path) -> None:
    app = typer.Typer()
    cli.register(app)
    arguments = ["shard", index.source, str(tmp_path / "out"), "--videos-per-shard", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "5 videos in 3 shards" in result.output
    assert len(open_index(tmp_path / "out")) == 5
