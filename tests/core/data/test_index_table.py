"""Tables of indexes: kept in the cache, mapped by processes, whole or made anew."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cmaev.data import open_table
from cmaev.data.index import VideoIndex, open_index
from cmaev.data.table import Table, pack_table


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index that counts as a large one, and an empty cache."""
    monkeypatch.setenv("CMAEV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(open_table, "CACHE_FROM_BYTES", 0)
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").touch()
    path = tmp_path / "index.csv"
    path.write_text("path,label\na.mp4,walk\nb.mp4,run\n")
    return path


def kept(source: Path) -> list[Path]:
    return sorted((source.parent / "cache").rglob("*.*"))


def rows(index: VideoIndex) -> list[tuple[str, str, str]]:
    return [
        (Path(index.paths[row]).name, index.label_names[index.labels[row]], index.where(row))
        for row in range(len(index))
    ]


def test_a_large_index_is_converted_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rows(open_index(source))
    assert [name for name, _, _ in first] == ["a.mp4", "b.mp4"]
    (file,) = kept(source)
    monkeypatch.setattr(open_table, "build_table", None)
    assert rows(open_index(source)) == first
    assert kept(source) == [file]


def test_a_changed_index_or_root_is_converted_anew(source: Path) -> None:
    open_index(source)
    source.write_text("path,label\nb.mp4,sit\n")
    assert rows(open_index(source)) == [("b.mp4", "sit", f"{source}:2")]
    (source.parent / "other").mkdir()
    (source.parent / "other" / "b.mp4").touch()
    index = open_index(source, root=source.parent / "other")
    assert index.paths[0] == str(source.parent / "other" / "b.mp4")
    assert len(kept(source)) == 3


def test_a_failed_conversion_leaves_nothing(source: Path) -> None:
    (source.parent / "b.mp4").unlink()
    with pytest.raises(ValueError, match="missing"):
        open_index(source)
    assert kept(source) == []


def test_tables_that_nobody_opens_are_forgotten(source: Path) -> None:
    open_index(source)
    (used,) = kept(source)
    unused = used.with_name("0.safetensors")
    unused.write_bytes(used.read_bytes())
    for file in (used, unused):
        os.utime(file, (0, 0))
    open_index(source)
    source.write_text("path,label\nb.mp4,sit\n")
    open_index(source)
    assert used.exists()
    assert not unused.exists()


@pytest.mark.parametrize("keep", [0, 7, 200])
def test_a_damaged_table_is_made_anew(source: Path, keep: int) -> None:
    wanted = rows(open_index(source))
    (file,) = kept(source)
    file.write_bytes(file.read_bytes()[:keep])
    assert rows(open_index(source)) == wanted
    assert rows(VideoIndex(Table.map_file(file))) == wanted


def test_without_a_cache_the_table_is_held_in_memory(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source.parent / "file").touch()
    monkeypatch.setenv("CMAEV_CACHE_DIR", str(source.parent / "file" / "cache"))
    with pytest.warns(UserWarning, match=r"held in memory; set CMAEV_CACHE_DIR"):
        index = open_index(source)
    assert rows(pickle.loads(pickle.dumps(index))) == rows(index)


def test_several_processes_may_convert_at_once(source: Path) -> None:
    code = (
        "from cmaev.data import open_table; from cmaev.data.index import open_index\n"
        "open_table.CACHE_FROM_BYTES = 0\n"
        f"print(len(open_index({str(source)!r})))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in running] == ["2\n"] * 3
    assert len(kept(source)) == 1


def test_a_mapped_index_travels_by_its_name(source: Path) -> None:
    source.write_text("path,label\n" + "a.mp4,walk\n" * 5000)
    index = open_index(source, labels=("run", "walk"))
    sent = pickle.dumps(index)
    assert len(sent) < 1000
    assert rows(pickle.loads(sent)) == rows(index)
    assert set(index.labels.tolist()) == {1}


def test_a_held_table_is_shared_with_a_worker() -> None:
    column = np.arange(1_000_000)
    table = Table.hold(pack_table({"column": column}, {"word": "é"}))
    context = multiprocessing.get_context("forkserver")
    answers = context.SimpleQueue()
    process = context.Process(target=report, args=(table, answers))
    process.start()
    assert answers.get() == (column.sum(), "é", False)
    process.join()


def report(table: Table, answers: "multiprocessing.SimpleQueue[tuple[int, str, bool]]") -> None:
    column = table["column"]
    answers.put((int(column.sum()), table.notes["word"], column.flags.writeable))
