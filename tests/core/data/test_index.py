"""Index files: every form that is read, and errors that name the line and the fix."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from cmaev.data.errors import DataError
from cmaev.data.index import NO_LABEL, open_index
from cmaev.data.packed import PackedStrings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a.mp4, b.mp4 and `sub dir/c d.mp4`."""
    (tmp_path / "sub dir").mkdir()
    for name in ("a.mp4", "b.mp4", "sub dir/c d.mp4", "e,f.mp4"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "index.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.mp4,walk\nb.mp4,run\n",
        "\ufeffpath,label\r\na.mp4,walk\r\nb.mp4,run\r\n",
        "group,Label,frames,Path\n1,walk,3,a.mp4\n2,run,4,b.mp4\n",
        "path\tlabel\na.mp4\twalk\nb.mp4\trun\n",
        "path label\na.mp4 walk\nb.mp4 run\n",
        "a.mp4 walk\nb.mp4 run\n",
        "a.mp4   walk\n\nb.mp4  run  \n",
        "a.mp4\twalk\nb.mp4\trun",
        "a.mp4,walk\nb.mp4, run\n",
        '"a.mp4" walk\n"b.mp4" run\n',
    ],
)
def test_names_become_numbers_in_sorted_order(folder: Path, text: str) -> None:
    index = open_index(write(folder, text))
    assert list(index.paths) == [str(folder / "a.mp4"), str(folder / "b.mp4")]
    assert index.label_names == ("run", "walk")
    assert index.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    "text", ['"sub dir/c d.mp4" 1\n', "sub dir/c d.mp4\t1\n", "sub dir/c d.mp4,1"]
)
def test_paths_with_spaces(folder: Path, text: str) -> None:
    index = open_index(write(folder, text))
    assert index.paths[0] == str(folder / "sub dir" / "c d.mp4")
    assert index.labels.tolist() == [1]


@pytest.mark.parametrize(
    "text", ["sub dir/c d.mp4\n", "a.mp4\nb.mp4\n", "path\na.mp4\n", "e,f.mp4\n"]
)
def test_labels_are_optional(folder: Path, text: str) -> None:
    index = open_index(write(folder, text))
    assert set(index.labels.tolist()) == {NO_LABEL}
    assert index.label_names == ()
    with pytest.raises(DataError, match=r"index.txt:\d: .* rows have no label"):
        index.require_labels()


def test_a_comma_in_a_path_does_not_split_it(folder: Path) -> None:
    assert open_index(write(folder, "e,f.mp4 3\na.mp4 0\n")).labels.tolist() == [3, 0]


def test_integers_keep_their_value(folder: Path) -> None:
    index = open_index(write(folder, "a.mp4 2\nb.mp4 -1\n"))
    assert index.labels.tolist() == [2, NO_LABEL]
    assert index.label_names == ("0", "1", "2")


def test_given_labels_decide(folder: Path) -> None:
    index = open_index(write(folder, "a.mp4 walk\nb.mp4 0\n"), labels=("sit", "stand", "walk"))
    assert index.labels.tolist() == [2, 0]
    assert index.label_names == ("sit", "stand", "walk")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("jump", r"index.txt:2: unknown label 'jump'; use one of sit, walk"),
        ("2", r"index.txt:2: label 2 is out of range; use 0 to 1"),
        ("-3", r"index.txt:2: label -3 is out of range"),
    ],
)
def test_unknown_labels_are_errors(folder: Path, label: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_index(write(folder, f"a.mp4 walk\nb.mp4 {label}\n"), labels=("sit", "walk"))


def test_an_absurd_label_does_not_make_a_huge_list(folder: Path) -> None:
    with pytest.raises(DataError, match="label 1000000000 is out of range"):
        open_index(write(folder, "a.mp4 1000000000\n"))
    with pytest.raises(DataError, match="label -2 is out of range; use 0 or more, or -1"):
        open_index(write(folder, "a.mp4 -2\n"))


def test_root_replaces_the_folder_of_the_index(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.txt"
    other.write_text("c d.mp4\n")
    assert len(open_index(other, root=folder / "sub dir")) == 1


@pytest.mark.parametrize("count", [3, 50])
def test_missing_videos_are_named_and_counted(folder: Path, count: int) -> None:
    rows = "".join(f"gone{k}.mp4 0\n" for k in range(count))
    with pytest.raises(DataError) as caught:
        open_index(write(folder, "a.mp4 0\n" + rows))
    message = str(caught.value)
    assert f"{count} of {count + 1} videos are missing" in message
    assert "index.txt:2" in message
    assert "root" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the index is empty"),
        ("\n \n", "the index is empty"),
        ("path,label\n", "a header and no rows"),
        ("a.mp4 0\nb.mp4 0 5\n", r"index.txt:2: 3 fields; every line must read"),
        ("a.mp4 0\nb.mp4\n", r"index.txt:2: 1 fields"),
        ("path,label\na.mp4\n", r"index.txt:2: 1 cells under a header of 2"),
        (f'path,label\n"{"x" * 200_000},1\n', r"index.txt:2: .* look for an open quote"),
    ],
)
def test_rows_of_another_form_are_errors(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_index(write(folder, text))


def test_missing_or_binary_index(folder: Path) -> None:
    with pytest.raises(DataError, match="there is no such index file"):
        open_index(folder / "none.csv")
    (folder / "binary").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match="not UTF-8"):
        open_index(folder / "binary")


def test_lines_count_what_an_editor_counts(folder: Path) -> None:
    index = open_index(write(folder, "path,label\n\na.mp4,x\n\n\nb.mp4,x\n"))
    assert index.lines.tolist() == [3, 6]
    assert index.where(1).endswith("index.txt:6")


def test_one_video_has_one_label(folder: Path) -> None:
    with pytest.raises(DataError, match=r"index.txt:3: .*a.mp4 has another label at .*index.txt:1"):
        open_index(write(folder, "a.mp4 walk\nb.mp4 run\n./a.mp4 run\n"))
    twice = open_index(write(folder, "a.mp4 walk\nb.mp4 run\na.mp4 walk\n"))
    assert twice.labels.tolist() == [1, 0, 1], "twice under one label is a heavier weight"


def test_minus_one_is_no_label_among_names_too(folder: Path) -> None:
    index = open_index(write(folder, "a.mp4 walk\nb.mp4 -1\n"))
    assert index.label_names == ("walk",)
    assert index.labels.tolist() == [0, NO_LABEL]
    with pytest.raises(DataError, match=r"index.txt:2: 1 of 2 rows have no label .*or -1"):
        index.require_labels()


def test_an_extension_may_be_left_off_as_in_videomae(folder: Path) -> None:
    index = open_index(write(folder, "a 0\nb 1\n"))
    assert index.paths[1] == str(folder / "b.mp4")


def test_packed_strings_are_small_and_travel() -> None:
    values = [f"folder/vidéo_{k}.mp4" for k in range(5000)]
    packed = PackedStrings.pack(values)
    assert list(packed) == values
    assert packed[-1] == values[-1]
    assert packed[3:5] == values[3:5]
    with pytest.raises(IndexError):
        packed[5000]
    copy = pickle.loads(pickle.dumps(packed))
    assert copy[7] == values[7]
    assert len(pickle.dumps(packed)) < 2 * sum(map(len, values))
    assert isinstance(packed.text, np.ndarray)
