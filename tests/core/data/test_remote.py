"""Indexes, videos and shards on a real S3 server on loopback."""

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cmaev.data.decode import open_video
from cmaev.data.encode import EncodeOptions
from cmaev.data.errors import DataError
from cmaev.data.index import VideoIndex, open_index
from cmaev.data.prepare import PrepareOptions, prepare_index
from cmaev.data.reader import DiskReader
from cmaev.data.shard_write import write_shards

boto3 = pytest.importorskip("boto3")
server = pytest.importorskip("moto.server")

BUCKET = "videos"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server that speaks HTTP."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    _, port = running.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    running.stop()


@pytest.fixture
def bucket(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "boto3.client":
    """An empty bucket, reached by what the environment says and by nothing else."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "CMAEV_CACHE_DIR": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)


def put(bucket: "boto3.client", **files: bytes) -> None:
    for name, data in files.items():
        bucket.put_object(Bucket=BUCKET, Key=name, Body=data)


def count_frames(index: VideoIndex, row: int) -> int:
    source = index.open_source(row)
    with open_video(source) as video:
        frames = video.decode([0, video.num_frames - 1]).frames
    assert frames[0].mean() < frames[1].mean(), "they get brighter"
    return video.num_frames


def test_index_and_videos(bucket: "boto3.client", levels_mp4: bytes) -> None:
    text = "path,label\nclips/a b.mp4,walk\ns3://videos/other/c.mp4,run\n"
    put(
        bucket,
        **{
            "set/train.csv": text.encode(),
            "set/clips/a b.mp4": levels_mp4,
            "other/c.mp4": levels_mp4,
        },
    )
    index = open_index("s3://videos/set/train.csv")
    assert list(index.paths) == ["s3://videos/set/clips/a b.mp4", "s3://videos/other/c.mp4"]
    assert index.label_names == ("run", "walk")
    assert [count_frames(index, row) for row in range(2)] == [40, 40]
    assert index.stamp(0) == (len(levels_mp4), -1)


def test_a_local_index_with_a_remote_root(
    bucket: "boto3.client", tmp_path: Path, levels_mp4: bytes
) -> None:
    put(bucket, **{"k/a.mp4": levels_mp4})
    (tmp_path / "train.csv").write_text("path\na.mp4\n")
    assert count_frames(open_index(tmp_path / "train.csv", root="s3://videos/k/"), 0) == 40


def test_a_folder_per_class(bucket: "boto3.client", levels_mp4: bytes) -> None:
    put(bucket, **{"set/walk/a.mp4": levels_mp4, "set/run/b.mp4": levels_mp4})
    index = open_index("s3://videos/set")
    assert list(index.paths) == ["s3://videos/set/run/b.mp4", "s3://videos/set/walk/a.mp4"]
    assert index.label_names == ("run", "walk")
    assert count_frames(index, 1) == 40


def test_shards(bucket: "boto3.client", tmp_path: Path, levels_mp4: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(levels_mp4)
    (tmp_path / "index.csv").write_text("path,label\na.mp4,walk\na.mp4,walk\n")
    write_shards(open_index(tmp_path), tmp_path / "out", videos_per_shard=1)
    for path in (tmp_path / "out").iterdir():
        put(bucket, **{f"shards/{path.name}": path.read_bytes()})
    for address in ("s3://videos/shards", "s3://videos/shards/*.tar"):
        index = open_index(address)
        assert len(index) == 2
        assert index.open_source(1) == levels_mp4
        assert index.label_names == ("walk",)
    put(bucket, **{"shards/shard-000001.tar": b"short"})
    with pytest.raises(DataError, match=r"shard-000001.tar: it has 5 bytes of at least"):
        open_index("s3://videos/shards")


def test_a_video_is_read_once_by_blocks(
    bucket: "boto3.client", levels_mp4: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoders pass over a file several times; its blocks come over the network once."""
    import s3fs

    put(bucket, **{"a.mp4": levels_mp4, "list.txt": b"a.mp4\n"})
    index = open_index("s3://videos/list.txt")
    fetched: list[tuple[int, int]] = []
    fetch = s3fs.core.S3File._fetch_range

    def counted(file: object, start: int, end: int) -> bytes:
        fetched.append((start, end))
        return fetch(file, start, end)

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counted)
    assert count_frames(index, 0) == 40
    assert [start for start, _ in fetched] == [0]


def test_samples_and_preparing(bucket: "boto3.client", tmp_path: Path, levels_mp4: bytes) -> None:
    index = open_index(_with(bucket, levels_mp4))
    clip = DiskReader(index).read(0, lambda num_frames: np.array([0, num_frames - 1]))
    assert clip.frames.shape == (2, 48, 64, 3)
    options = PrepareOptions(encode=EncodeOptions(short_side=32))
    report = prepare_index(index, out=tmp_path / "out", options=options)
    assert report.quarantined == {}
    assert count_frames(open_index(tmp_path / "out"), 0) == 40
    assert prepare_index(index, out=tmp_path / "out", options=options).encoded == 0
    put(bucket, **{"a.mp4": levels_mp4 + b"\0"})
    assert prepare_index(index, out=tmp_path / "out", options=options).encoded == 1


def _with(bucket: "boto3.client", video: bytes) -> str:
    put(bucket, **{"a.mp4": video, "one.txt": b"a.mp4\n"})
    return "s3://videos/one.txt"


def test_errors_name_the_url_and_the_fix(
    bucket: "boto3.client", levels_mp4: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, **{"list.txt": b"gone.mp4 1\n"})
    with pytest.raises(DataError, match=r"s3://videos/none.csv: there is no such file"):
        open_index("s3://videos/none.csv")
    with pytest.raises(DataError, match=r"list.txt:1: there is no file s3://videos/gone.mp4"):
        open_index("s3://videos/list.txt")
    gone = open_index(_with(bucket, levels_mp4))
    bucket.delete_object(Bucket=BUCKET, Key="a.mp4")
    with pytest.raises(DataError, match=r"s3://videos/a.mp4: there is no such file"):
        gone.open_source(0)
    with pytest.raises(DataError, match="nosuch:// cannot be opened"):
        open_index("nosuch://a/b.csv")
    with pytest.raises(DataError, match=r"must not hold a user or password") as caught:
        open_index("s3://key:geheim@videos/list.txt")
    assert "geheim" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    code = "from cmaev.data.index import open_index; open_index('s3://videos/list.txt')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "DataError: s3://videos/list.txt: it cannot be read: " in result.stderr
    assert "127.0.0.1:9" in result.stderr


def test_a_server_that_goes_away_is_an_error_of_the_video(
    bucket: "boto3.client", levels_mp4: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    index = open_index(_with(bucket, levels_mp4))

    def fail(file: object, start: int, end: int) -> bytes:
        raise RuntimeError("the server is gone")

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", fail)
    source = index.open_source(0)
    with pytest.raises(DataError, match="the server is gone"), open_video(source) as video:
        video.decode([0])


def test_workers_read_from_the_server(bucket: "boto3.client", levels_mp4: bytes) -> None:
    put(bucket, **{"a.mp4": levels_mp4, "list.txt": b"a.mp4\n"})
    index = open_index("s3://videos/list.txt")
    assert count_frames(index, 0) == 40, "the parent has connections open"
    # Not from a fork server, which may run since before the bucket was put into the environment.
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=report, args=(index, answers))
    process.start()
    assert answers.get() == 40
    process.join()


def report(index: VideoIndex, answers: "multiprocessing.SimpleQueue[int]") -> None:
    answers.put(count_frames(index, 0))


def test_fsspec_is_imported_only_for_urls(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.txt").write_text("a.mp4\n")
    code = (
        "import sys; from cmaev.data.index import open_index\n"
        f"open_index({str(tmp_path / 'list.txt')!r})\n"
        "print(sorted({'fsspec', 's3fs', 'torch'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr
