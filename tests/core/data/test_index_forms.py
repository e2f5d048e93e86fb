"""Indexes of other projects: V2's lists, Something-Something V2, folders; and arbitrary text."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmaev.data.errors import DataError
from cmaev.data.frame_folder import FrameFolder
from cmaev.data.frame_lists import frame_names
from cmaev.data.index import NO_LABEL, Verified, open_index
from cmaev.data.index_format import read_text, write_cells
from cmaev.data.storage import Root


def write(folder: Path, text: str, *, name: str = "index.txt") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def make_frames(folder: Path, count: int, *, name: str = "img_{:05}.jpg", first: int = 1) -> None:
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        (folder / name.format(number)).touch()


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Folders of 12, 7 and 9 frames, and a video."""
    for name, count in (("a", 12), ("b", 7), ("sub c", 9)):
        make_frames(tmp_path / name, count)
    (tmp_path / "v.mp4").write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize("text", ["v.mp4 0 -1\n", "v.mp4,0,-1\n", "path,start,total\nv.mp4,0,-1\n"])
def test_total_of_minus_one_is_the_whole_video(frames: Path, text: str) -> None:
    index = open_index(write(frames, text))
    assert index.open_source(0) == frames / "v.mp4"
    assert index.segment(0) is None
    assert index.labels.tolist() == [NO_LABEL]


def test_parts_of_a_video_may_have_different_labels(frames: Path) -> None:
    index = open_index(write(frames, "path,start,total,label\nv.mp4,0,20,sit\nv.mp4,20,30,stand\n"))
    assert [index.segment(row) for row in range(2)] == [(0, 20), (20, 30)]
    assert index.labels.tolist() == [0, 1]
    text = "path,start,total,label\nv.mp4,0,20,sit\nv.mp4,0,20,stand\n"
    with pytest.raises(DataError, match="another label"):
        open_index(write(frames, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v.mp4 5 -1\n", "index.txt:1: start is 5 and total is -1"),
        ("v.mp4 -3 8\n", "index.txt:1: start is -3"),
        ("v.mp4 0 10\nv.mp4 0 0\n", "index.txt:2: start is 0 and total is 0"),
        ("v.mp4 0 10\nv.mp4 0 x\n", "index.txt:2: .* 'x'; write a whole number"),
        ("path,start,total\nv.mp4,0,1.5\n", "index.txt:2: total is '1.5'"),
    ],
)
def test_impossible_parts_are_errors(frames: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_index(write(frames, text))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a 1 12\nb 1 7\n", [-1, -1]),
        ("a 12 3\nb 7 0\n", [3, 0]),
        ("a\t12\t3\nb\t7\t1\n", [3, 1]),
        ("path,start,total,label\na,1,12,3\nb,1,7,1\n", [3, 1]),
    ],
)
def test_both_lists_of_raw_frames(frames: Path, text: str, labels: list[int]) -> None:
    index = open_index(write(frames, text))
    assert index.labels.tolist() == labels
    assert index.open_source(0) == FrameFolder(frames / "a", "img_{:05}.jpg", 1, 12)
    assert index.open_source(1) == FrameFolder(frames / "b", "img_{:05}.jpg", 1, 7)
    assert index.segment(0) is None
    assert index.open_source(1).frame(6).is_file()  # type: ignore[union-attr]


def test_parts_of_folders_and_videos_in_one_list(frames: Path) -> None:
    index = open_index(write(frames, 'v.mp4 0 -1\na 3 6\nb 1 7\n"sub c" 1 9\n'))
    assert index.open_source(0) == frames / "v.mp4"
    assert index.open_source(1) == FrameFolder(frames / "a", "img_{:05}.jpg", 3, 6)
    assert index.open_source(3) == FrameFolder(frames / "sub c", "img_{:05}.jpg", 1, 9)


def test_numbers_that_fit_no_folder_ask_for_a_header(frames: Path) -> None:
    with pytest.raises(DataError, match=r"index.txt:1: .*12 frames from 1 on; 40 50 .*header"):
        open_index(write(frames, "a 40 50\n"))
    with pytest.raises(DataError, match=r"12 frames from 1 on; 1 13 .*header"):
        open_index(write(frames, "a 1 13\n"))  # a frame too many, not one frame of label 13
    (frames / "empty").mkdir()
    with pytest.raises(DataError, match=r"index.txt:1: .*without numbered pictures"):
        open_index(write(frames, "empty 1 5\n"))


def test_a_folder_without_numbers_is_not_a_video(frames: Path) -> None:
    with pytest.raises(DataError, match=r"a is a folder.*path total label"):
        open_index(write(frames, "a 0\n"))


@pytest.mark.parametrize(
    ("name", "first", "count", "template"),
    [
        ("img_{:05}.jpg", 1, 3, "img_{:05}.jpg"),
        ("{:03}.png", 0, 3, "{:03}.png"),
        ("frame{}.JPG", 8, 4, "frame{}.JPG"),
        ("image_{:02}.jpeg", 95, 10, "image_{:02}.jpeg"),
    ],
)
def test_names_of_frames_are_found_out(
    tmp_path: Path, name: str, first: int, count: int, template: str
) -> None:
    make_frames(tmp_path / "x", count, name=name, first=first)
    (tmp_path / "x" / "notes.txt").touch()
    (tmp_path / "x" / "thumbnail.jpg").touch()
    found = frame_names(str(tmp_path / "x"))
    assert found is not None
    assert (found.first, found.size) == (first, count)
    files = {found.template.format(number) for number in range(first, first + count)}
    assert files <= set(os.listdir(tmp_path / "x"))


SOMETHING = [
    {"id": "7", "label": "holding a cup", "template": "Holding [something]"},
    {"id": 8, "label": "dropping a pen", "template": "Dropping [something] onto [something]"},
    {"id": "9"},
]
NAMES = {"Holding something": "1", "Dropping something onto something": "0", "Never": "2"}


@pytest.mark.parametrize("place", ["{}.webm", "{}.mp4", "20bn-something-something-v2/{}.webm"])
def test_something_something(tmp_path: Path, place: str) -> None:
    for number in "789":
        path = tmp_path / place.format(number)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    write(tmp_path, json.dumps(NAMES), name="something-something-v2-labels.json")
    index = open_index(write(tmp_path, json.dumps(SOMETHING), name="train.json"))
    assert index.paths[1] == str(tmp_path / place.format(8))
    assert index.label_names == ("Dropping something onto something", "Holding something", "Never")
    assert index.labels.tolist() == [1, 0, NO_LABEL]
    assert index.where(1).endswith("train.json: entry 2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "train.json: expected a list"),
        ('[\n{"id": }]', "train.json:2: not valid json"),
        ('[{"id": "7"}, {"name": 3}]', "train.json: entry 2 has no `id`"),
        (json.dumps([{"id": "7", "template": "Eating"}]), "entry 1: unknown label 'Eating'"),
        ('[{"id": "7"}, {"id": "77"}]', "train.json: entry 2: there is no file .*77.webm"),
    ],
)
def test_something_something_errors(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "7.webm").touch()
    write(tmp_path, json.dumps(NAMES), name="labels.json")
    with pytest.raises(DataError, match=message):
        open_index(write(tmp_path, text, name="train.json"))
    write(tmp_path, '{"Holding something": "5"}', name="labels.json")
    with pytest.raises(DataError, match=r"labels.json: expected"):
        open_index(write(tmp_path, json.dumps(SOMETHING), name="train.json"))


def test_a_folder_per_class(tmp_path: Path) -> None:
    for name in ("walk/a.mp4", "walk/deep er/b.MKV", "sit/c.mp4", "sit/._c.mp4", "sit/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loose.mp4").touch()
    index = open_index(tmp_path)
    assert [os.path.relpath(path, tmp_path) for path in index.paths] == [
        "loose.mp4",
        "sit/c.mp4",
        "walk/a.mp4",
        "walk/deep er/b.MKV",
    ]
    assert index.label_names == ("sit", "walk")
    assert index.labels.tolist() == [NO_LABEL, 0, 1, 1]
    with pytest.warns(UserWarning, match="root has no effect"):
        open_index(tmp_path, root="elsewhere")
    write(tmp_path, "path,label\nloose.mp4,run\n", name="index.csv")
    assert open_index(tmp_path).label_names == ("run",), "an index.csv decides"


def test_a_folder_without_videos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no videos; expected .*CLASS/VIDEO.mp4"):
        open_index(tmp_path)


def test_columns_of_a_check_are_read_where_all_are_there(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").touch()
    header = "path,label,frames,decoder,bytes,mtime_ns\n"
    rows = "a.mp4,x,40,decord,1234,1700000000123456789\nb.mp4,x,,,,\n"
    index = open_index(write(tmp_path, header + rows))
    assert index.verified(0) == Verified(40, "decord", 1234, 1_700_000_000_123_456_789)
    assert index.verified(1) is None
    partly = open_index(write(tmp_path, "path,frames,bytes\na.mp4,forty,1\n"))
    assert partly.verified(0) is None, "others may mean something else by `frames`"
    with pytest.raises(DataError, match=r"index.txt:2: frames is 'forty'"):
        open_index(write(tmp_path, header + "a.mp4,x,forty,decord,1,2\n"))


# All that a file name or a label can hold, with what separates and quotes more often.
cell = st.text(
    st.sampled_from(" ,;\t\"'\\-0é\u2028\x85\u00a0") | st.characters(exclude_categories=["Cs"]),
    min_size=1,
    max_size=12,
).map(lambda text: text.replace("\0", "0"))
paths = cell.filter(lambda text: text.strip() == text)
labels = cell.map(lambda text: text.strip() or "x").filter(lambda text: text.strip() == text)


@given(st.lists(st.tuples(paths, labels), min_size=1, max_size=8))
def test_written_indexes_are_read_back(rows: list[tuple[str, str]]) -> None:
    text = write_cells([("path", "label"), *rows])
    listing = read_text("index.csv", text.encode(), Root("/nowhere"))
    assert [(row.path, row.label) for row in listing.rows] == rows


one_line = paths.filter(lambda text: not set(text) & set("\r\n"))
names = labels.filter(lambda text: not set(text) & set("\r\n"))


@pytest.mark.parametrize("separator", [" ", "   ", "\t", ",", ", "])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(one_line, names), max_size=8))
def test_lines_without_header_are_read_back(
    tmp_path: Path, separator: str, rows: list[tuple[str, str]]
) -> None:
    (tmp_path / "first.mp4").touch()
    wanted = [("first.mp4", "walk"), *rows]
    text = "".join(f"{quote(path)}{separator}{quote(label)}\n" for path, label in wanted)
    listing = read_text("index.txt", text.encode(), Root(str(tmp_path)))
    assert [(row.path, row.label) for row in listing.rows] == wanted


def quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
