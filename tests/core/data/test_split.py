import csv

import pytest

from cmaev.data.errors import DataError
from cmaev.data.index import open_index
from cmaev.data.shard_write import write_shards
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


def test_a_video_that_is_listed_twice_stays_on_one_side(index, tmp_path):
    index.write_text(index.read_text() + "".join(f"{number}.mp4,walk\n" for number in range(15)))
    assert sum(split_index(index, out=tmp_path / "split", val_share=0.4)) == 35
    train, val = (open_index(tmp_path / "split" / f"{side}.csv") for side in ("train", "val"))
    assert not set(train.paths) & set(val.paths)


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


def test_a_split_says_all_that_the_index_says(tmp_path):
    text = "path,start,total,label,frames,decoder,bytes,mtime_ns\n"
    for number in range(4):
        (tmp_path / f"{number}.mp4").write_bytes(b"video")
        for start in range(3):
            text += f"{number}.mp4,{10 * number + start},5,{number % 2},40,decord,5,7\n"
    (tmp_path / "index.csv").write_text(text + "0.mp4,9,5,0,,,,\n")
    index = open_index(tmp_path / "index.csv")
    split_index(tmp_path / "index.csv", out=tmp_path / "split")
    found, files = {}, []
    for side in ("train", "val"):
        part = open_index(tmp_path / "split" / f"{side}.csv")
        assert part.paths[0].startswith(str(tmp_path))
        files.append({part.paths[k] for k in range(len(part))})
        found |= {part.segment(k): (part.labels[k], part.verified(k)) for k in range(len(part))}
    assert found == {
        index.segment(k): (index.labels[k], index.verified(k)) for k in range(len(index))
    }
    assert not files[0] & files[1]  # parts of one video stay together


def test_shards_and_urls_can_be_split(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    rows = "".join(f"{name}.mp4,{number % 2}\n" for number, name in enumerate("abcd"))
    (tmp_path / "index.csv").write_text("path,label\n" + rows)
    write_shards(open_index(tmp_path), tmp_path / "shards")
    split_index(tmp_path / "shards", out=tmp_path / "split", val_share=0.5)
    sides = [open_index(tmp_path / "split" / f"{side}.csv") for side in ("train", "val")]
    content = [side.open_source(row) for side in sides for row in range(len(side))]
    assert sorted(content) == [b"a", b"b", b"c", b"d"]
    (tmp_path / "urls.csv").write_text(
        "path,label\n" + "".join(f"memory://videos/{name},0\n" for name in "abcd")
    )
    fsspec = pytest.importorskip("fsspec")
    for name in "abcd":
        fsspec.filesystem("memory").pipe_file(f"/videos/{name}", b"x")
    split_index(tmp_path / "urls.csv", out=tmp_path / "split")
    assert open_index(tmp_path / "split" / "val.csv").paths[0].startswith("memory://videos/")
