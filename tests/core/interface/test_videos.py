"""Lists of videos as indexes: what an index file is held to, in the words of the arguments."""

from pathlib import Path

import numpy as np
import pytest

from cmaev.data.errors import DataError
from cmaev.data.index import open_index
from cmaev.interface.videos import IndexFile, index_file, index_pair, list_videos


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Files with names that an index has to quote."""
    names = ["a b.mp4", "c,d.mp4", 'e"f.mp4', "g.mp4"]
    for name in names:
        (tmp_path / name).touch()
    return [tmp_path / name for name in names]


def test_a_list_becomes_an_index_that_says_the_same(files: list[Path], tmp_path: Path) -> None:
    labels = ["wave, twice", "sit down", "wave, twice", "sit down"]
    index = index_file(files, labels, folder=tmp_path / "index", stem="train")
    assert not Path(index.path).exists()
    index.write()
    read = open_index(index.path)
    assert list(read.paths) == [str(file) for file in files]
    assert [read.label_name(row) for row in range(4)] == labels
    assert index.label_names == read.label_names == ("sit down", "wave, twice")


def test_numbers_are_classes_by_value(files: list[Path]) -> None:
    index = list_videos(files, np.array([2, 0, 2, 1]))
    assert index.label_names == ("0", "1", "2")
    assert index.labels.tolist() == [2, 0, 2, 1]


def test_relative_paths_start_from_the_working_directory(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index = index_file([files[3].name], folder=Path("run"), stem="train", needs_labels=False)
    index.write()
    monkeypatch.chdir("/")
    assert list(open_index(index.path).paths) == [str(files[3])]


def test_other_videos_are_another_index(files: list[Path], tmp_path: Path) -> None:
    def path(*videos: Path) -> str:
        return index_file(videos, folder=tmp_path, stem="train", needs_labels=False).path

    assert path(*files) == path(*files)
    assert len({path(*files), path(*files[:3]), path(*reversed(files))}) == 3


def test_an_index_of_the_user_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index = index_file("train.csv", folder=tmp_path / "run", stem="train")
    assert index == IndexFile(str(tmp_path / "train.csv"))
    assert index_file("s3://bucket/x", folder=tmp_path, stem="t").path == "s3://bucket/x"
    index.write()
    assert not list(tmp_path.iterdir())


def test_a_share_of_each_label_is_held_out(files: list[Path], tmp_path: Path) -> None:
    labels = ["a", "b", "a", "b"]
    train, val = index_pair((files, labels), None, folder=tmp_path / "index", val_share=0.5, seed=0)
    for index in (train, val):
        index.write()
    parts = [open_index(index.path) for index in (train, val)]
    assert [sorted(map(part.label_name, range(len(part)))) for part in parts] == [["a", "b"]] * 2
    assert {path for part in parts for path in part.paths} == set(map(str, files))


def test_bad_lists_are_named(files: list[Path]) -> None:
    def refused(*arguments: object) -> str:
        with pytest.raises(DataError) as caught:
            list_videos(*arguments, needs_labels=True)  # type: ignore[arg-type]
        return str(caught.value)

    assert refused([], []) == "videos: the list is empty; give at least one video"
    assert refused(files) == "labels: give one for each of videos, in the same order"
    assert "labels: there are 3, for 4 videos" in refused(files, ["a", "b", "a"])
    assert "labels: item 2 is ''" in refused(files, ["a", "b", "", "a"])
    assert "labels: item 1 is nan" in refused(files, ["a", float("nan"), "a", "b"])
    assert "labels: item 3 is None" in refused(files, ["a", "b", "a", None])
    assert "labels: item 0 is -1" in refused(files, [-1, 0, 1, 0])
    assert "labels: item 0 is True" in refused(files, [True, False, True, True])
    assert "labels: 'left' is no list" in refused(files, "left")
    assert "labels: 3 is no list" in refused(files, 3)
    assert "videos: 3 is no list of videos" in refused(3)
    assert "videos: item 1: (PosixPath(" in refused([files[0], (files[1], 1)], ["a", "b"])
    assert "videos: item 0: is empty" in refused([""], ["a"])
    gone = [files[0], files[1].with_name("gone.mp4")]
    message = refused(gone, ["a", "b"])
    assert "1 of 2 videos are missing: videos: item 1: there is no file" in message
    message = refused([files[0], files[0]], ["a", "b"])
    assert "videos: item 1" in message
    assert "has another label at videos: item 0" in message
    assert "is one video; give a list" in refused(str(files[0]))
    assert "videos: /nowhere.csv: there is no such index file" in refused("/nowhere.csv")
    assert "labels: leave them out; videos is an index" in refused("train.csv", ["a"])


def test_a_label_that_is_unknown_is_named(files: list[Path]) -> None:
    with pytest.raises(DataError, match="val_videos: item 1: unknown label 'c'"):
        list_videos(
            files[:2], ["a", "c"], names=("val_videos", "val_labels"), label_names=("a", "b")
        )
