"""`cmaev data shard`: videos of an index to tar files that object stores serve well.

A shard appears whole or not at all, and `index.csv` comes last, so that a run that was cut off goes
on where it was. Videos are copied as they are; `cmaev data prepare` makes them small first.
"""

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from cmaev.data.errors import DataError
from cmaev.data.frame_folder import FrameFolder, VideoSource
from cmaev.data.index import VideoIndex
from cmaev.data.index_format import write_cells
from cmaev.data.labels import NO_LABEL
from cmaev.data.open_table import INDEX_NAME
from cmaev.data.output import alone_in, local_output
from cmaev.data.shards import scan_members
from cmaev.data.storage import open_binary
from cmaev_spec.files import sync_directory, write_atomic

DEFAULT_SHARD_BYTES: Final = 1_000_000_000
_COLUMNS: Final = (
    *("path", "label", "offset", "bytes"),
    *("start", "total", "frames", "decoder", "mtime_ns"),
)


class _Video(NamedTuple):
    """A row and the member that it becomes."""

    row: int
    name: str
    size: int
    mtime: int


def write_shards(
    index: VideoIndex,
    out: str | Path,
    *,
    videos_per_shard: int | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Writes the videos of an index to OUT/shard-000000.tar … and OUT/index.csv.

    Args:
        index: the videos; raw frames have to be prepared first.
        out: local folder; made where it is missing.
        videos_per_shard: how many videos a shard holds; by `shard_bytes` where None.
        shard_bytes: a shard ends before the video that would make it larger.
        progress: called with the number of videos done.

    Returns:
        The number of shards.

    Raises:
        DataError: if a video cannot be read, or `out` is a URL, another process writes there, or it
            holds shards of another division.
    """
    folder = local_output(out)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        shards = enumerate(_divide(_videos(index), videos_per_shard, shard_bytes))
        plan = {folder / f"shard-{number:06}.tar": videos for number, videos in shards}
        others = sorted(set(folder.glob("shard-*.tar")) - plan.keys())
        if others:
            raise DataError(
                f"{others[0]} is of another division into shards; choose an empty folder"
            )
        rows: list[Sequence[object]] = [_COLUMNS]
        for shard, videos in plan.items():
            if not _is_done(index, shard, videos):
                (folder / INDEX_NAME).unlink(missing_ok=True)
                _write_shard(index, shard, videos)
            members, _ = scan_members(str(shard))
            rows += [
                _index_row(index, shard, video, members[video.name].offset_data) for video in videos
            ]
            progress(len(rows) - 1)
        write_atomic(folder / INDEX_NAME, write_cells(rows))
        return len(plan)


def _videos(index: VideoIndex) -> Iterator[_Video]:
    digits = max(6, len(str(len(index) - 1)))
    for row in range(len(index)):
        size, mtime_ns = index.stamp(row)
        suffix = os.path.splitext(index.paths[row])[1].lower() or ".mp4"
        yield _Video(row, f"{row:0{digits}}{suffix}", size, max(mtime_ns, 0) // 1_000_000_000)


def _divide(
    videos: Iterator[_Video], videos_per_shard: int | None, shard_bytes: int
) -> Iterator[list[_Video]]:
    shard: list[_Video] = []
    held = 0
    for video in videos:
        full = held + video.size > shard_bytes if videos_per_shard is None else False
        if shard and (full or len(shard) == videos_per_shard):
            yield shard
            shard, held = [], 0
        shard.append(video)
        held += video.size
    yield shard


def _is_done(index: VideoIndex, shard: Path, videos: list[_Video]) -> bool:
    if not shard.is_file():
        return False
    try:
        members, texts = scan_members(str(shard))
    except DataError:
        return False
    there = {name: (member.size, member.mtime) for name, member in members.items()}
    return all(
        there.get(video.name) == (video.size, video.mtime)
        and all(texts.get(name) == text for name, text in _notes(index, video).items())
        for video in videos
    )


def _write_shard(index: VideoIndex, shard: Path, videos: list[_Video]) -> None:
    # Always the same name, so that what a killed run left is overwritten.
    temporary = shard.with_name(f".{shard.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for video in videos:
                    _add_video(tar, index, video)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, shard)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(shard.parent)


def _add_video(tar: tarfile.TarFile, index: VideoIndex, video: _Video) -> None:
    source = index.open_source(video.row)
    try:
        with _open(source) as stream:
            _add(tar, video.name, stream, video)
    except (OSError, DataError) as error:
        reason = error if isinstance(error, DataError) else error.strerror or error
        raise DataError(f"{index.where(video.row)}: {index.paths[video.row]}: {reason}") from None
    for name, text in _notes(index, video).items():
        data = text.encode()
        _add(tar, name, BytesIO(data), video._replace(size=len(data)))


def _open(source: VideoSource) -> BinaryIO:
    if isinstance(source, FrameFolder):
        raise DataError("it is a folder of frames; make it a video by `cmaev data prepare` first")
    if isinstance(source, bytes):
        return BytesIO(source)
    return open_binary(str(source)) if isinstance(source, Path) else source


def _notes(index: VideoIndex, video: _Video) -> dict[str, str]:
    """The small files that go with a video."""
    key = os.path.splitext(video.name)[0]
    label = int(index.labels[video.row])
    notes = {"path": index.paths[video.row]}
    if label == NO_LABEL:
        return {f"{key}.json": json.dumps(notes)}
    notes["label"] = index.label_names[label]
    return {f"{key}.cls": str(label), f"{key}.json": json.dumps(notes)}


def _add(tar: tarfile.TarFile, name: str, stream: BinaryIO, video: _Video) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = video.size, video.mtime
    tar.addfile(member, stream)


def _index_row(index: VideoIndex, shard: Path, video: _Video, offset: int) -> Sequence[object]:
    row = video.row
    label = int(index.labels[row])
    name = "" if label == NO_LABEL else index.label_names[label]
    start, total = index.segment(row) or (0, -1)
    verified = index.verified(row)
    known = verified is not None and (verified.bytes, verified.mtime_ns) == index.stamp(row)
    found = (verified.frames, verified.decoder) if verified is not None and known else ("", "")
    return f"{shard.name}/{video.name}", name, offset, video.size, start, total, *found, ""
