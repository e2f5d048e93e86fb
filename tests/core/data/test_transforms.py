"""Crops, resizing and flips of uint8 clips."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmaev.data.transforms import (
    Box,
    center_crop,
    crop_resize,
    hull,
    multi_scale_box,
    random_resized_box,
    resize_short_side,
    spatial_crops,
)

sides = st.integers(8, 400)
seeds = st.integers(0, 2**32 - 1)


def ramp(height: int, width: int, count: int = 2) -> np.ndarray:
    """Frames whose red is the column and whose green is the row."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.arange(width)
    frame[..., 1] = np.arange(height)[:, None]
    return np.stack([frame] * count)


def inside(box: Box, width: int, height: int) -> bool:
    return (
        box.left >= 0
        and box.top >= 0
        and box.width > 0
        and box.height > 0
        and box.left + box.width <= width
        and box.top + box.height <= height
    )


def test_crop_without_scaling_is_exact() -> None:
    frames = ramp(48, 64)
    cut = crop_resize(frames, Box(10, 5, 32, 16), size=(32, 16))
    np.testing.assert_array_equal(cut, frames[:, 5:21, 10:42])


def test_whole_frame_at_its_own_size_is_untouched() -> None:
    frames = ramp(48, 64)
    assert crop_resize(frames, Box(0, 0, 64, 48), size=(64, 48)) is frames


def test_a_hull_is_the_smallest_box_around_others() -> None:
    assert hull([Box(5, 2, 3, 4), Box(1, 3, 2, 9), Box(4, 4, 1, 1)]) == Box(1, 2, 7, 10)


def test_scaling_averages() -> None:
    half = crop_resize(ramp(64, 64), Box(0, 0, 64, 64), size=(32, 32))
    np.testing.assert_allclose(half[0, 16, 4:28, 0], 2 * np.arange(4, 28) + 0.5, atol=1)


def test_a_crop_sees_nothing_outside_its_box() -> None:
    frames = np.zeros((1, 48, 64, 3), np.uint8)
    frames[:, 8:24, 16:40] = 200
    assert (crop_resize(frames, Box(16, 8, 24, 16), size=(9, 7)) == 200).all()


def places(free_x: int, free_y: int) -> set[tuple[int, int]]:
    """VideoMAE's 13 places: a 3 x 3 grid, and halfway from its middle to its corners."""
    grid = {(x * free_x // 2, y * free_y // 2) for x in range(3) for y in range(3)}
    return grid | {(x * free_x // 4, y * free_y // 4) for x in (1, 3) for y in (1, 3)}


def test_all_scales_and_all_places_are_drawn() -> None:
    rng = np.random.default_rng(0)
    boxes = [multi_scale_box(340, 256, scales=(1.0, 0.5), rng=rng) for _ in range(600)]
    assert {(box.width, box.height) for box in boxes} == {
        (w, h) for w in (256, 128) for h in (256, 128)
    }
    small = {(box.left, box.top) for box in boxes if box.width == box.height == 128}
    assert small == places(340 - 128, 256 - 128)
    assert len(small) == 13


@given(sides, sides, seeds)
def test_multi_scale_box(width: int, height: int, seed: int) -> None:
    scales = (1.0, 0.875, 0.75, 0.66)
    box = multi_scale_box(width, height, scales=scales, rng=np.random.default_rng(seed))
    assert inside(box, width, height)
    lengths = [int(min(width, height) * scale) for scale in scales]
    steps = [
        (i, j)
        for i, w in enumerate(lengths)
        for j, h in enumerate(lengths)
        if (w, h) == (box.width, box.height)
    ]
    assert any(abs(i - j) <= 1 for i, j in steps)
    assert (box.left, box.top) in places(width - box.width, height - box.height)
    assert box == multi_scale_box(width, height, scales=scales, rng=np.random.default_rng(seed))


@given(sides, sides, st.floats(0.05, 1.0), seeds)
def test_random_resized_box(width: int, height: int, least: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert inside(random_resized_box(width, height, area=(least, 1.0), rng=rng), width, height)


def test_random_resized_box_keeps_to_the_area() -> None:
    rng = np.random.default_rng(0)
    boxes = [random_resized_box(200, 160, area=(0.25, 0.5), rng=rng) for _ in range(500)]
    shares = np.array([box.width * box.height / (200 * 160) for box in boxes])
    assert shares.min() > 0.24
    assert shares.max() < 0.51
    assert np.ptp(shares) > 0.2


@pytest.mark.parametrize(("height", "width", "shape"), [(48, 64, (32, 43)), (64, 48, (43, 32))])
def test_resize_short_side(height: int, width: int, shape: tuple[int, int]) -> None:
    assert resize_short_side(ramp(height, width), 32).shape == (2, *shape, 3)


def test_center_crop_is_in_the_middle() -> None:
    assert center_crop(ramp(48, 64), 32)[0, 0, 0].tolist() == [16, 8, 0]


def test_spatial_crops_go_along_the_longer_side() -> None:
    wide = spatial_crops(ramp(32, 100), 32, 3)
    assert wide.shape == (3, 2, 32, 32, 3)
    assert wide[:, 0, 0, 0, 0].tolist() == [0, 34, 68]
    tall = spatial_crops(ramp(100, 32), 32, 3)
    assert tall[:, 0, 0, 0, 1].tolist() == [0, 34, 68]
    assert spatial_crops(ramp(32, 100), 32, 1)[0, 0, 0, 0].tolist() == [34, 0, 0]
