"""Samples: what is shared between views, what is random, and what a broken video says."""

from pathlib import Path

import numpy as np
import pytest

from cmaev.data import memory, rows
from cmaev.data.crops import training_crop
from cmaev.data.errors import BadVideoError, DataError
from cmaev.data.held import CACHE_MARGIN, hold_frames
from cmaev.data.index import VideoIndex, open_index
from cmaev.data.reader import DiskReader, MemoryReader
from cmaev.data.sampling import train_clip
from cmaev.data.transforms import Box, random_resized_box
from cmaev.data.views import EvaluateViews, FinetuneViews, PretrainViews
from cmaev_spec.data import (
    AugmentSpec,
    ClipSpec,
    FinetuneData,
    LoadingSpec,
    PretrainData,
    RandAugmentSpec,
)

CLIP = ClipSpec(frames=4, stride=2, size=16)
LOADING = LoadingSpec()
GRID = (2, 4, 4)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, encode_video) -> VideoIndex:
    """Three videos of 40 frames: a level that tells the frame, over a ramp to the right."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        frames = np.zeros((40, 48, 64, 3), np.uint8)
        frames += np.arange(64, dtype=np.uint8)[None, None, :, None]
        frames += (10 + 4 * np.arange(40, dtype=np.uint8))[:, None, None, None]
        (folder / f"{number}.mp4").write_bytes(encode_video(frames))
    (folder / "index.csv").write_text("path,label\n0.mp4,a\n1.mp4,b\n2.mp4,a\n")
    return open_index(folder / "index.csv")


def pretrain_views(index: VideoIndex, **changes: object) -> PretrainViews:
    data = PretrainData(index=index.source, clip=CLIP, **changes)
    return PretrainViews(index, data, grid=GRID, mask_ratio=0.75, seed=1)


def test_pretrain_sample_has_its_parts(index: VideoIndex) -> None:
    sample = pretrain_views(index).sample(1, epoch=0)
    assert sample["online"].shape == sample["target"].shape == (4, 16, 16, 3)
    assert sample["online"].dtype == sample["target"].dtype == np.uint8
    assert sample["mask"].shape == (32,)
    assert sample["mask"].sum() == 24
    assert int(sample["index"]) == 1


def test_views_share_their_crop_and_differ_by_the_shift(index: VideoIndex) -> None:
    views = pretrain_views(index, color_augment=False, crop_scales=(0.5,))
    shifts = []
    for epoch in range(40):
        sample = views.sample(0, epoch=epoch)
        difference = sample["target"].astype(float) - sample["online"].astype(float)
        assert np.ptp(difference) <= 6, "the same ramp in both: one crop"
        shifts.append(round(difference.mean() / 4))
    assert set(shifts) == set(range(5)), "δ from 0 to p = 2 x stride"


def test_what_the_device_does_is_drawn_where_it_is_asked_for(index: VideoIndex) -> None:
    assert pretrain_views(index, color_augment=False).sample(0, epoch=0).keys() == {
        "online",
        "target",
        "mask",
        "index",
    }
    views = pretrain_views(index, hflip=True)
    samples = [views.sample(0, epoch=epoch) for epoch in range(40)]
    assert {bool(sample["flip"]) for sample in samples} == {True, False}
    assert all(sample["color"].shape == (10,) for sample in samples)
    assert len({sample["color"].tobytes() for sample in samples}) > 30


def test_colour_changes_neither_the_crop_nor_the_frames(index: VideoIndex) -> None:
    plain, coloured = pretrain_views(index, color_augment=False), pretrain_views(index)
    for epoch in range(3):
        first, second = plain.sample(0, epoch=epoch), coloured.sample(0, epoch=epoch)
        np.testing.assert_array_equal(first["online"], second["online"])
        np.testing.assert_array_equal(first["target"], second["target"])


def test_a_sample_depends_on_seed_epoch_and_index(index: VideoIndex) -> None:
    first, again = pretrain_views(index), pretrain_views(index)
    again.sample(2, epoch=5)
    for name, value in first.sample(0, epoch=3).items():
        np.testing.assert_array_equal(value, again.sample(0, epoch=3)[name])
    masks = {first.sample(0, epoch=epoch)["mask"].tobytes() for epoch in range(6)}
    assert len(masks) == 6


def test_both_views_come_from_one_decode(index: VideoIndex, monkeypatch) -> None:
    opened = []
    real = rows.open_checked
    monkeypatch.setattr(
        rows, "open_checked", lambda *args, **kw: (opened.append(args), real(*args, **kw))[1]
    )
    pretrain_views(index).sample(0, epoch=0)
    EvaluateViews(index, clip=CLIP, num_clips=5, num_crops=3).sample(0)
    assert len(opened) == 2


def test_finetune_sample(index: VideoIndex) -> None:
    data = FinetuneData(index=index.source, val_index=index.source, clip=CLIP)
    sample = FinetuneViews(index, data, seed=0).sample(1, epoch=0)
    assert sample.keys() == {"video", "label", "index"}
    assert sample["video"].shape == (1, 4, 16, 16, 3)
    assert int(sample["label"]) == 1
    steps = np.diff(sample["video"][0].mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(steps, 8, atol=1.5)


def test_repeated_samples_are_views_of_the_same_frames(index: VideoIndex, monkeypatch) -> None:
    opened = []
    real = rows.open_checked
    monkeypatch.setattr(
        rows, "open_checked", lambda *args, **kw: (opened.append(args), real(*args, **kw))[1]
    )
    data = FinetuneData(
        index=index.source,
        val_index=index.source,
        clip=CLIP,
        num_sample=3,
        hflip=True,
        augment=AugmentSpec(rand_augment=RandAugmentSpec(), erase_probability=1.0),
    )
    sample = FinetuneViews(index, data, seed=0).sample(1, epoch=0)
    assert len(opened) == 1
    assert sample["video"].shape == (3, 4, 16, 16, 3)
    assert sample["flip"].shape == (3,)
    assert sample["rand_augment"].shape == (3, 4, 2)
    assert sample["erase"].shape == (3, 4)
    assert len({view.tobytes() for view in sample["video"]}) == 3, "crops of their own"
    assert len({view.tobytes() for view in sample["rand_augment"]}) == 3
    moves = np.diff(sample["video"].astype(float).mean(axis=(2, 3, 4)), axis=1)
    np.testing.assert_allclose(moves, 8, atol=1.5)
    again = FinetuneViews(index, data, seed=0).sample(1, epoch=0)
    for name, value in sample.items():
        np.testing.assert_array_equal(value, again[name])


def test_a_view_is_the_crop_of_whole_frames(index: VideoIndex) -> None:
    """Reading only what the views look at, and all of them at once, changes no pixel."""
    data = FinetuneData(index=index.source, val_index=index.source, clip=CLIP, num_sample=2)
    sample = FinetuneViews(index, data, seed=3).sample(1, epoch=4)
    rng = np.random.default_rng([3, 4, 1])
    clip = DiskReader(index).read(1, lambda n: train_clip(n, CLIP, rng=rng))
    boxes = [random_resized_box(64, 48, area=data.crop_area, rng=rng) for _ in range(2)]
    for view, box in zip(sample["video"], boxes, strict=True):
        np.testing.assert_array_equal(view, training_crop(clip.frames, box, size=16)[clip.places])


def test_flips_are_refused_where_a_mirror_changes_labels(tmp_path: Path, index: VideoIndex) -> None:
    (tmp_path / "sides.csv").write_text(
        f"path,label\n{index.paths[0]},left\n{index.paths[1]},right"
    )
    sides = open_index(tmp_path / "sides.csv")
    data = FinetuneData(index=sides.source, val_index=sides.source, clip=CLIP, hflip=True)
    with pytest.raises(DataError, match=r"data\.hflip: .* 'left' becomes 'right'"):
        FinetuneViews(sides, data, seed=0)
    with pytest.raises(DataError, match=r"set data\.hflip to false"):
        pretrain_views(sides, hflip=True)
    assert len(FinetuneViews(sides, data.model_copy(update={"hflip": False}), seed=0)) == 2


def test_evaluate_sample_has_all_views_in_order(index: VideoIndex) -> None:
    sample = EvaluateViews(index, clip=CLIP, num_clips=2, num_crops=3).sample(0)
    views = sample["video"]
    assert views.shape == (6, 4, 16, 16, 3)
    level = views.astype(float).mean(axis=(1, 2, 3, 4))
    assert (np.diff(level[:3]) > 2).all(), "crops of a clip go from left to right"
    assert (np.diff(level[3:]) > 2).all()
    assert level[3] > level[0] + 50, "the second clip is later"


def test_labels_are_needed_where_they_are_used(tmp_path: Path, index: VideoIndex) -> None:
    (tmp_path / "bare.txt").write_text("".join(f"{path}\n" for path in index.paths))
    bare = open_index(tmp_path / "bare.txt")
    with pytest.raises(DataError, match=r"bare.txt:1: 3 of 3 rows have no label"):
        EvaluateViews(bare, clip=CLIP, num_clips=1, num_crops=1)
    assert pretrain_views(bare).sample(0, epoch=0)["online"].shape == (4, 16, 16, 3)


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_a_broken_video_is_named(index: VideoIndex, tmp_path: Path, cache: str) -> None:
    (tmp_path / "bad.mp4").write_text("this is text")
    (tmp_path / "list.txt").write_text(f"{index.paths[0]}\nbad.mp4\n")
    broken = open_index(tmp_path / "list.txt")
    with pytest.raises(DataError) as caught:
        pretrain_views(broken, cache=cache).sample(1, epoch=0)
    message = str(caught.value)
    assert f"list.txt:2: {tmp_path / 'bad.mp4'}: it cannot be read as a video" in message
    assert "replace the video or remove the row" in message


def test_held_frames_are_those_of_the_disk_scaled_down(index: VideoIndex) -> None:
    seen: list[tuple[int, int]] = []
    frames = hold_frames(
        index, size=32, loading=LOADING, progress=lambda done, total: seen.append((done, total))
    )
    held = MemoryReader(frames)
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def choose(num_frames: int) -> np.ndarray:
        assert num_frames == 40
        return np.array([3, 39, 3])

    small, whole = held.read(1, choose), DiskReader(index).read(1, choose)
    assert small.frames.shape == (2, int(32 * CACHE_MARGIN), round(64 * 36 / 48), 3)
    np.testing.assert_array_equal(small.places, whole.places)
    np.testing.assert_allclose(
        small.frames.mean(axis=(1, 2, 3)), whole.frames.mean(axis=(1, 2, 3)), atol=1
    )


def test_processes_hold_the_same_frames_and_leave_bad_videos_out(
    index: VideoIndex, tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_text("this is text")
    (tmp_path / "list.txt").write_text("\n".join([*index.paths[:2], "bad.mp4", index.paths[2]]))
    listed = open_index(tmp_path / "list.txt")
    alone, several = (
        hold_frames(listed, size=32, loading=LoadingSpec(workers=workers)) for workers in (0, 2)
    )
    for row in (0, 1, 3):
        np.testing.assert_array_equal(alone[row], several[row])
    for held in (alone, several):
        with pytest.raises(BadVideoError, match=r"list.txt:3: \S*bad.mp4: it cannot be read"):
            held[2]


def test_only_the_part_that_is_looked_at_is_read(index: VideoIndex) -> None:
    def choose(num_frames: int) -> np.ndarray:
        return np.array([5, 30, 5])

    def look(width: int, height: int) -> Box:
        assert (width, height) == (64, 48)
        return Box(7, 3, 21, 30)

    for opened in (DiskReader(index), MemoryReader(hold_frames(index, size=224, loading=LOADING))):
        whole, part = opened.read(0, choose), opened.read(0, choose, look)
        np.testing.assert_array_equal(part.frames, whole.frames[:, 3:33, 7:28])
        np.testing.assert_array_equal(part.places, whole.places)


def test_small_videos_are_held_as_they_are(index: VideoIndex) -> None:
    held = MemoryReader(hold_frames(index, size=224, loading=LOADING))
    disk = DiskReader(index)
    np.testing.assert_array_equal(
        held.read(0, lambda n: np.arange(n)).frames, disk.read(0, lambda n: np.arange(n)).frames
    )


def test_a_set_too_large_for_memory_is_refused(index: VideoIndex) -> None:
    with pytest.raises(
        DataError, match=r"data.cache: the frames of 3 videos need .* set data.cache"
    ):
        hold_frames(index, size=32, loading=LOADING, free=lambda: 100_000)


def test_available_memory_is_that_of_this_machine() -> None:
    assert 2**26 < memory.available_memory() < 2**46


def test_a_container_limit_counts(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 700\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_memory() == 2700
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() > 2**26
