"""`cmaev data check`: which videos of an index can be used, and by which decoder.

`checked.jsonl` in the output folder grows by a line for each video, so that a check that was cut
off goes on where it was, and a later one looks only at videos that are new or changed.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from cmaev.data.check_file import CheckTask, Verdict, check_video
from cmaev.data.check_report import CheckReport, write_report
from cmaev.data.decode import DecodeLimits, backend_names, is_available
from cmaev.data.decode.base import needed_module, require_module
from cmaev.data.entries import read_entries
from cmaev.data.errors import DataError
from cmaev.data.frame_folder import FrameFolder
from cmaev.data.index import Verified, VideoIndex
from cmaev.data.output import alone_in, local_output
from cmaev.data.sandbox import MEMORY_BYTES, SECONDS, LimitedPool
from cmaev.data.storage import is_url

STATE: Final = "checked.jsonl"

Progress = Callable[[int, int], None]
_Stamp = tuple[int, int]
_NO_STAMP: Final = (-1, -1)


class _Tried(NamedTuple):
    decoder: str
    memory: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """How to check.

    Attributes:
        decoder: the fast decoder to compare with the reference.
        workers: videos to check at once.
        limits: what a video may ask for.
        memory: bytes that decoding a video may take.
        seconds: time that checking a video may take.
    """

    decoder: str = "pyav-seek"
    workers: int = 1
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    memory: int = MEMORY_BYTES
    seconds: float = SECONDS

    @property
    def tried(self) -> _Tried:
        """What a verdict depends on besides the video."""
        return _Tried(self.decoder, self.memory, self.seconds)


@dataclass(frozen=True)
class _Entry:
    """A verdict that holds while the video has the same stamp."""

    key: str
    stamp: _Stamp
    tried: _Tried
    verdict: Verdict

    def holds(self, now: _Stamp, options: CheckOptions) -> bool:
        """Whether to believe it; what broke a limit is tried again under another one."""
        same = self.stamp == now and self.tried.decoder == options.decoder
        return same and (not self.verdict.reason or self.tried == options.tried)

    def found(self) -> tuple[Verified | None, str]:
        """What is verified, or why nothing is; and why the fast decoder may not be used."""
        verdict, (size, time) = self.verdict, self.stamp
        if verdict.reason:
            return None, verdict.reason
        verified = Verified(
            frames=verdict.frames, decoder=verdict.decoder, bytes=size, mtime_ns=time
        )
        return verified, verdict.note

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "_Entry":
        entry = json.loads(line)
        size, time = entry["stamp"]
        tried, verdict = _Tried(*entry["tried"]), Verdict(**entry["verdict"])
        return cls(entry["key"], (size, time), tried, verdict)


def check_index(
    index: VideoIndex, *, out: Path, options: CheckOptions, progress: Progress | None = None
) -> CheckReport:
    """Checks the videos of an index; writes `verified.csv` and `quarantine.csv` into `out`.

    Args:
        index: the videos.
        out: folder to make or to go on in.
        options: how to check.
        progress: called with (videos done, videos in all).

    Raises:
        DataError: if there is no such decoder, `out` is a URL, another process writes there, or its
            state cannot be read.
    """
    out = local_output(out)
    _check_decoder(options.decoder)
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        state = out / STATE
        known = read_entries(state, parse=_Entry.from_line, command="check")
        videos = distinct_videos(index)
        todo = _to_check(index, videos, known, options)
        entries = _check(index, todo, options)
        with open(state, "ab", buffering=0) as lines:
            for done, entry in enumerate(entries, start=len(videos) - len(todo) + 1):
                lines.write(entry.to_line())
                known[entry.key] = entry
                if progress is not None:
                    progress(done, len(videos))
            os.fsync(lines.fileno())

        def found(row: int) -> tuple[Verified | None, str]:
            return known[_key(index, row)].found()

        return write_report(index, found, out=out, checked=len(todo))


def default_folder(source: str) -> Path:
    """Where a check of the index `source` is kept: beside it.

    Raises:
        DataError: for a URL, beside which nothing is kept.
    """
    if is_url(source):
        raise DataError("--out: give a local folder for what is found out about a remote index")
    path = Path(source).absolute()
    return path.with_name(f"{path.stem}-checked")


def _check_decoder(name: str) -> None:
    fast = [known for known in backend_names() if known != "pyav"]
    if name not in fast:
        raise DataError(f"--decoder: {name!r} is no fast decoder; choose one of {', '.join(fast)}")
    if not is_available(name):
        require_module(name)


def _to_check(
    index: VideoIndex, videos: dict[str, int], known: dict[str, _Entry], options: CheckOptions
) -> dict[str, tuple[int, _Stamp]]:
    """Rows and stamps of the videos that are new, changed, or checked for another decoder."""
    todo = {}
    for key, row in videos.items():
        now, entry = _stamp(index, row), known.get(key)
        if now is None or entry is None or not entry.holds(now, options):
            todo[key] = row, now or _NO_STAMP
    return todo


def _check(
    index: VideoIndex, todo: dict[str, tuple[int, _Stamp]], options: CheckOptions
) -> Iterator[_Entry]:
    """Checks the rows of `todo` in children, in whatever order they come."""
    tasks = (
        CheckTask(
            key=key, source=_source(index, row), decoder=options.decoder, limits=options.limits
        )
        for key, (row, _) in todo.items()
    )
    module = needed_module(options.decoder)
    with LimitedPool(
        options.workers,
        memory=options.memory,
        seconds=options.seconds,
        preload=() if module is None else [module],
    ) as pool:
        for task, outcome in pool.map(check_video, tasks):
            verdict = Verdict(reason=str(outcome)) if isinstance(outcome, DataError) else outcome
            yield _Entry(task.key, todo[task.key][1], options.tried, verdict)


def distinct_videos(index: VideoIndex) -> dict[str, int]:
    """The videos of an index by key, each with one of its rows."""
    return {_key(index, row): row for row in range(len(index))}


def _key(index: VideoIndex, row: int) -> str:
    """What tells videos apart: two rows may mean parts of one file."""
    numbers = index.numbers(row)
    if index.segment(row) is not None:
        return index.paths[row]
    return ":".join((index.paths[row], *map(str, numbers.values())))


def _stamp(index: VideoIndex, row: int) -> _Stamp | None:
    """Size and time of a video; None if it cannot be reached."""
    try:
        return index.stamp(row)
    except DataError:
        return None


def _source(index: VideoIndex, row: int) -> Path | bytes | FrameFolder | str:
    """Where a child reads a video from."""
    path = index.paths[row]
    if is_url(path) and "offset" not in index.numbers(row):
        return path
    source = index.open_source(row)
    assert isinstance(source, Path | bytes | FrameFolder)
    return source
