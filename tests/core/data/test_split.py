import csv

import pytest

from cmaev.data.errors import DataError
from cmaev.data.index import open_index
from cmaev.data.split import split_index


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "all.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for number in range(20):
            (tmp_path / f"{number}.mp4").write_bytes(b"video")
            writer.writerow([f"{number}.mp4", "walk" if number < 15 else "sit"])
    return path


def test_every_label_gives_its_share_and_no_video_is_on_both_sides(index, tmp_path):
    assert split_index(index, out=tmp_path / "split") == (16, 4)
    train, val = (open_index(tmp_path / "split" / f"{side}.csv") for side in ("train", "val"))
    assert not set(train.paths) & set(val.paths)
    assert sorted(val.labels.tolist()) == [0, 1, 1, 1]


def test_the_same_seed_gives_the_same_split(index, tmp_path):
    texts = []
    for seed in (1, 1, 2):
        split_index(index, out=tmp_path / "split", seed=seed)
        texts.append((tmp_path / "split" / "val.csv").read_text())
    assert texts[0] == texts[1] != texts[2]


def test_a_label_with_one_video_cannot_be_split(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "index.csv").write_text("path,label\na.mp4,walk\n")
    with pytest.raises(DataError, match="'walk' has one video"):
        split_index(tmp_path / "index.csv", out=tmp_path)
