"""Training crops against those of evaluation."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cmaev.data.crops import training_crop
from cmaev.data.transforms import Box, crop_resize


@settings(max_examples=60)
@given(st.integers(4, 200), st.integers(4, 200), st.integers(1, 120), st.integers(0, 2**32 - 1))
def test_they_are_two_roundings_apart(width: int, height: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    w, h = int(rng.integers(1, width + 1)), int(rng.integers(1, height + 1))
    box = Box(int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h)
    result = training_crop(frames, box, size=size)
    assert result.shape == (2, size, size, 3)
    assert result.flags.c_contiguous
    expected = crop_resize(frames, box, size=(size, size))
    difference = np.abs(result.astype(int) - expected.astype(int))
    assert difference.max() <= 2  # each of two passes rounds to whole levels
    assert (difference <= 1).mean() > 0.99


def test_frames_that_may_not_be_written_to_and_mirrored_ones_work() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    box = Box(3, 2, 10, 9)
    expected = training_crop(frames, box, size=8)
    mirrored = training_crop(frames[:, :, ::-1][:, :, ::-1].copy()[:, ::-1], box, size=8)
    assert not np.array_equal(mirrored, expected)
    frames.flags.writeable = False
    np.testing.assert_array_equal(training_crop(frames, box, size=8), expected)


def test_the_source_is_left_alone() -> None:
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    training_crop(frames, Box(0, 0, 8, 8), size=8)[:] = 7
    assert (frames == 0).all()
