"""`cmaev data prepare`: the videos of an index, encoded anew for training.

`prepared.jsonl` in the output folder grows by a line for each video, so that a run that was cut off
goes on where it was, and a later one encodes only what is new or changed. `index.csv` comes last.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from cmaev.data.check_file import Verdict
from cmaev.data.check_report import QUARANTINE, most_common
from cmaev.data.decode import DecodeLimits
from cmaev.data.encode import EncodeOptions, EncodeTask, encode_video, temporary_name
from cmaev.data.entries import read_entries
from cmaev.data.errors import DataError
from cmaev.data.frame_folder import FrameFolder
from cmaev.data.index import VideoIndex
from cmaev.data.index_format import VERIFIED, write_cells
from cmaev.data.open_table import INDEX_NAME
from cmaev.data.output import alone_in, local_output
from cmaev.data.sandbox import MEMORY_BYTES, LimitedPool
from cmaev.data.storage import is_url, size_and_time
from cmaev_spec.files import write_atomic

STATE: Final = "prepared.jsonl"
SECONDS: Final = 1800.0
"""How long one video may take."""
_NAME_LENGTH: Final = 48
_UNUSUAL: Final = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How to prepare.

    Attributes:
        encode: how videos are encoded.
        decoder: the fast decoder that the results are checked with.
        workers: videos to encode at once.
        limits: what a video may ask for.
        memory: bytes that a video may take.
        seconds: time that a video may take.
    """

    encode: EncodeOptions = field(default_factory=EncodeOptions)
    decoder: str = "pyav-seek"
    workers: int = 1
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    memory: int = MEMORY_BYTES
    seconds: float = SECONDS

    @property
    def tried(self) -> list[float]:
        """What a failure may depend on besides the video."""
        return [self.memory, self.seconds]


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What was done.

    Attributes:
        videos: rows of the index.
        encoded: videos that were encoded now; the others were before.
        quarantined: rows that cannot be used, by why.
        index: the index of the rows that can be used.
        quarantine: the list of those that cannot.
    """

    videos: int
    encoded: int
    quarantined: dict[str, int]
    index: Path
    quarantine: Path

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), default=str, indent=2)

    def to_text(self) -> str:
        """Some lines for a terminal."""
        bad = sum(self.quarantined.values())
        lines = [
            f"{self.videos} videos, {self.encoded} encoded now, {bad} quarantined",
            *most_common("quarantined", self.quarantined),
            f"train on {self.index}",
        ]
        return "\n".join([*lines, f"reasons in {self.quarantine}"] if bad else lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """What became of a video; it holds while what it was made from and the result stay the same.

    Attributes:
        key: names the video.
        made_from: its size and time, and the options.
        limits: what it was given in memory and time.
        stamp: size and time of the result.
        verdict: how the result can be read, or why there is none.
    """

    key: str
    made_from: list[Any]
    limits: list[float]
    stamp: tuple[int, int]
    verdict: Verdict

    @classmethod
    def failure(
        cls, key: str, made_from: list[Any], options: PrepareOptions, error: DataError
    ) -> "_Entry":
        """An entry of a video without a result."""
        return cls(
            key=key,
            made_from=made_from,
            limits=options.tried,
            stamp=(-1, -1),
            verdict=Verdict(reason=str(error)),
        )

    @classmethod
    def from_line(cls, line: bytes) -> "_Entry":
        entry = json.loads(line)
        size, time = entry["stamp"]
        verdict = Verdict(**entry["verdict"])
        return cls(
            key=entry["key"],
            made_from=entry["made_from"],
            limits=entry["limits"],
            stamp=(size, time),
            verdict=verdict,
        )

    def holds(self, result: Path, options: PrepareOptions) -> bool:
        """Whether the result is as it was made; a failure is tried again under other limits."""
        if self.verdict.reason:
            return self.limits == options.tried
        return result.is_file() and size_and_time(str(result)) == self.stamp


class _Video:
    """A video of the index, which several rows may name."""

    def __init__(self, index: VideoIndex, row: int, out: Path) -> None:
        self._index, self._row = index, row
        path = index.paths[row]
        self.key = _key(index, row)
        self._by_url = is_url(path) and "offset" not in index.numbers(row)
        stem = os.path.splitext(path.rstrip("/").rpartition("/")[2])[0]
        code = hashlib.sha256(self.key.encode()).hexdigest()[:10]
        name = _UNUSUAL.sub("_", stem)[:_NAME_LENGTH]
        self.out = out / "videos" / code[:2] / f"{name}-{code}.mp4"

    def made_from(self, options: PrepareOptions) -> list[Any]:
        """Another list when the result would be another one."""
        return [*self._index.stamp(self._row), *asdict(options.encode).values(), options.decoder]

    def task(self, options: PrepareOptions) -> EncodeTask:
        """What a child is asked to do."""
        index, row = self._index, self._row
        source = index.paths[row] if self._by_url else index.open_source(row)
        assert isinstance(source, Path | bytes | FrameFolder | str)
        return EncodeTask(
            key=self.key,
            source=source,
            segment=index.segment(row),
            out=self.out,
            options=options.encode,
            decoder=options.decoder,
            limits=options.limits,
        )


class _Videos:
    """The videos of an index by key, each made when it is looked at: there may be a million."""

    def __init__(self, index: VideoIndex, out: Path) -> None:
        self._index, self._out = index, out
        self._rows = {_key(index, row): row for row in range(len(index))}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __getitem__(self, key: str) -> _Video:
        return _Video(self._index, self._rows[key], self._out)


def count_videos(index: VideoIndex) -> int:
    """How many videos there are to encode; two rows may name the same."""
    return len({_key(index, row) for row in range(len(index))})


def _key(index: VideoIndex, row: int) -> str:
    return json.dumps([index.paths[row], index.numbers(row)])


def prepare_index(
    index: VideoIndex,
    *,
    out: str | Path,
    options: PrepareOptions | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PrepareReport:
    """Encodes the videos of an index into `out`, and writes `index.csv` and `quarantine.csv`.

    Args:
        index: the videos.
        out: folder to make or to go on in.
        options: how to prepare; the defaults where None.
        progress: called with (videos done, videos in all).

    Raises:
        DataError: if `out` is a URL, another process writes there, or its state cannot be read.
        RuntimeError: if a result cannot be written.
    """
    out, options = local_output(out), options or PrepareOptions()
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        known = read_entries(out / STATE, parse=_Entry.from_line, command="prepare")
        videos = _Videos(index, out)
        todo, failed = _to_encode(videos, known, options)
        known |= failed
        progress(len(videos) - len(todo), len(videos))
        encoded = _encode(videos, todo, options)
        with open(out / STATE, "ab", buffering=0) as lines:
            for done, entry in enumerate(encoded, start=len(videos) - len(todo) + 1):
                lines.write(json.dumps(asdict(entry)).encode() + b"\n")
                known[entry.key] = entry
                progress(done, len(videos))
            os.fsync(lines.fileno())
        quarantined = _write_lists(index, known, out)
    return PrepareReport(
        videos=len(index),
        encoded=len(todo),
        quarantined=quarantined,
        index=out / INDEX_NAME,
        quarantine=out / QUARANTINE,
    )


def _to_encode(
    videos: _Videos, known: dict[str, _Entry], options: PrepareOptions
) -> tuple[dict[str, list[Any]], dict[str, _Entry]]:
    """What the new and changed videos are made from, and entries for those that are gone."""
    todo: dict[str, list[Any]] = {}
    failed: dict[str, _Entry] = {}
    for key in videos:
        video = videos[key]
        try:
            made_from = video.made_from(options)
        except DataError as error:
            failed[key] = _Entry.failure(key, [], options, error)
            continue
        entry = known.get(key)
        if entry is None or entry.made_from != made_from or not entry.holds(video.out, options):
            todo[key] = made_from
    return todo, failed


def _encode(
    videos: _Videos, todo: dict[str, list[Any]], options: PrepareOptions
) -> Iterator[_Entry]:
    """Encodes in children, and gives entries in whatever order they come."""
    unreadable: list[_Entry] = []

    def tasks() -> Iterator[EncodeTask]:
        for key, made_from in todo.items():
            try:
                yield videos[key].task(options)
            except DataError as error:
                unreadable.append(_Entry.failure(key, made_from, options, error))

    with LimitedPool(options.workers, memory=options.memory, seconds=options.seconds) as pool:
        for task, outcome in pool.map(encode_video, tasks()):
            if isinstance(outcome, DataError):
                temporary_name(task.out).unlink(missing_ok=True)
                task.out.unlink(missing_ok=True)
                yield _Entry.failure(task.key, todo[task.key], options, outcome)
            else:
                yield _Entry(
                    key=task.key,
                    made_from=todo[task.key],
                    limits=options.tried,
                    stamp=size_and_time(str(task.out)),
                    verdict=outcome,
                )
    yield from unreadable


def _write_lists(index: VideoIndex, known: dict[str, _Entry], out: Path) -> dict[str, int]:
    good: list[tuple[object, ...]] = [("path", "label", *VERIFIED)]
    bad: list[tuple[object, ...]] = [("path", "label", "place", "reason")]
    quarantined = Counter[str]()
    for row in range(len(index)):
        video = _Video(index, row, out)
        entry, label = known[video.key], index.label_name(row)
        verdict = entry.verdict
        if verdict.reason:
            bad.append((index.paths[row], label, index.where(row), verdict.reason))
            quarantined[verdict.reason] += 1
        else:
            path = os.path.relpath(video.out, out)
            good.append((path, label, verdict.frames, verdict.decoder, *entry.stamp))
    write_atomic(out / QUARANTINE, write_cells(bad))
    write_atomic(out / INDEX_NAME, write_cells(good))
    return dict(quarantined.most_common())
