"""Colour augmentation of the target view."""

import time

import numpy as np
import pytest

from cmaev.data.color import augment_clip


def clip(size: int = 32) -> np.ndarray:
    """The same random frame eight times."""
    frame = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return np.stack([frame] * 8)


def augment(seed: int, frames: np.ndarray) -> np.ndarray:
    return augment_clip(frames, rng=np.random.default_rng(seed))


def test_all_frames_change_alike() -> None:
    for seed in range(30):
        changed = augment(seed, clip())
        assert changed.shape == (8, 32, 32, 3)
        assert changed.dtype == np.uint8
        assert (changed == changed[0]).all()


def test_each_part_happens_as_often_as_it_should() -> None:
    frames = clip()
    results = [augment(seed, frames) for seed in range(400)]
    untouched = np.mean([np.array_equal(result, frames) for result in results])
    assert 0.04 < untouched < 0.13, "0.2 * 0.8 * 0.5 = 0.08"
    grey = np.mean([(np.ptp(result, axis=-1) == 0).all() for result in results])
    assert 0.14 < grey < 0.26
    sharp = [np.abs(np.diff(result.astype(int), axis=2)).mean() for result in results]
    assert 0.3 < np.mean(np.array(sharp) < 0.5 * max(sharp)) < 0.7, "about half are blurred"


def test_the_input_is_left_alone_and_the_seed_decides() -> None:
    frames = clip()
    before = frames.copy()
    np.testing.assert_array_equal(augment(5, frames), augment(5, frames))
    assert any(not np.array_equal(augment(k, frames), augment(k + 1, frames)) for k in range(3))
    np.testing.assert_array_equal(frames, before)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_small_and_mirrored_frames_work(size: int) -> None:
    for seed in range(20):
        assert augment(seed, clip(size)[:, :, ::-1]).shape == (8, size, size, 3)


def test_it_is_cheap_on_small_clips() -> None:
    frames = clip()
    augment(0, frames)
    begin = time.process_time()
    for seed in range(50):
        augment(seed, frames)
    assert (time.process_time() - begin) / 50 < 0.01
