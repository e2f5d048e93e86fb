"""Matrix forms of crop, resize, flip and blur, against Pillow and torchvision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmaev.data.device import blur_matrix, crop_resize, flip_clips, resize_matrix
from cmaev.data.transforms import Box
from cmaev.data.transforms import crop_resize as reference_crop

sides = st.integers(4, 90)
seeds = st.integers(0, 2**32 - 1)


def random_boxes(width: int, height: int, count: int, rng: np.random.Generator) -> list[Box]:
    boxes = []
    for _ in range(count):
        w, h = int(rng.integers(1, width + 1)), int(rng.integers(1, height + 1))
        left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        boxes.append(Box(left, top, w, h))
    return boxes


@settings(max_examples=60)
@given(sides, sides, st.integers(4, 60), seeds)
def test_crops_are_those_of_pillow_within_a_level(w: int, h: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (3, 2, h, w, 3), dtype=np.uint8)
    boxes = random_boxes(w, h, 3, rng)
    flip = torch.tensor([False, True, False])
    result = crop_resize(torch.from_numpy(frames), torch.tensor(boxes), size=size, flip=flip)
    assert result.dtype == torch.uint8
    for clip, box, mirrored, got in zip(frames, boxes, flip, result.numpy(), strict=True):
        expected = reference_crop(clip, box, size=(size, size))
        expected = expected[:, :, ::-1] if mirrored else expected
        assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1


def test_crops_in_half_precision_as_on_gpus_are_at_most_a_level_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (8, 2, 90, 120, 3), dtype=np.uint8))
    boxes = torch.tensor(random_boxes(120, 90, 8, rng))
    exact = crop_resize(frames, boxes, size=64)
    monkeypatch.setattr("cmaev.data.device.mixing_dtype", lambda _device: torch.float16)
    levels = (crop_resize(frames, boxes, size=64).int() - exact.int()).abs()
    assert levels.max() == 1
    assert levels.float().mean() < 0.1


def test_padding_is_never_seen() -> None:
    frames = torch.full((1, 1, 20, 30, 3), 200, dtype=torch.uint8)
    frames[:, :, 12:] = 0
    frames[:, :, :, 17:] = 0
    cut = crop_resize(frames, torch.tensor([[1, 2, 16, 10]]), size=8)
    assert (cut == 200).all()


@given(sides, st.integers(1, 60), seeds)
def test_a_new_pixel_is_a_mean_of_old_ones_inside_the_box(n: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, n + 1))
    start = int(rng.integers(n - length + 1))
    matrix = resize_matrix(torch.tensor([start]), torch.tensor([length]), source=n, size=size)[0]
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(size))
    assert matrix[:, :start].sum() == 0
    assert matrix[:, start + length :].sum() == 0


def test_only_marked_clips_are_mirrored() -> None:
    frames = torch.arange(2 * 6, dtype=torch.uint8).reshape(2, 1, 1, 6, 1)
    flipped = flip_clips(frames, torch.tensor([True, False]))
    assert flipped[0].flatten().tolist() == [5, 4, 3, 2, 1, 0]
    assert torch.equal(flipped[1], frames[1])


def test_a_blur_of_radius_zero_is_none() -> None:
    assert torch.equal(blur_matrix(torch.zeros(1), size=9)[0], torch.eye(9))
    rows = blur_matrix(torch.tensor([0.3, 2.0]), size=9)
    torch.testing.assert_close(rows.sum(dim=2), torch.ones(2, 9))
    assert (rows[1].diagonal() < rows[0].diagonal()).all()
