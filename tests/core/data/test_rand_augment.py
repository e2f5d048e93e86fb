"""RandAugment on clips, against Pillow's operations where it has them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from cmaev.data.rand_augment import OPS, draw_rand_augment, rand_augment
from cmaev_spec.data import RandAugmentSpec

NAMES = list(OPS)
FILL = (124, 116, 104)


def clips(count: int = 1, size: int = 24) -> Tensor:
    """Smooth clips, so that interpolation makes little difference."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(20, 230, (count * 3, 4, 4, 3), dtype=np.uint8)
    frames = [Image.fromarray(frame).resize((size, size)) for frame in coarse]
    return torch.from_numpy(np.stack([np.asarray(f) for f in frames]).reshape(-1, 3, size, size, 3))


def apply(name: str, amount: float, frames: Tensor) -> Tensor:
    draws = torch.full((len(frames), 2, 2), -1.0)
    draws[:, 0] = torch.tensor([NAMES.index(name), amount])
    return rand_augment(frames, draws)


def affine(*matrix: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL
    )


@pytest.mark.parametrize(
    ("name", "amount", "expected"),
    [
        ("auto_contrast", 0.0, ImageOps.autocontrast),
        ("equalize", 0.0, ImageOps.equalize),
        ("invert", 0.0, ImageOps.invert),
        ("rotate", 20.0, lambda image: image.rotate(20, Image.Resampling.BILINEAR, fillcolor=FILL)),
        ("posterize", 2.8, lambda image: ImageOps.posterize(image, 2)),
        ("solarize", 179.2, lambda image: ImageOps.solarize(image, 256 - 179)),
        ("solarize_add", 77.0, lambda image: image.point(lambda v: v + 77 if v < 128 else v)),
        ("color", 0.6, lambda image: ImageEnhance.Color(image).enhance(1.6)),
        ("contrast", -0.5, lambda image: ImageEnhance.Contrast(image).enhance(0.5)),
        ("brightness", 0.3, lambda image: ImageEnhance.Brightness(image).enhance(1.3)),
        ("sharpness", 0.6, lambda image: ImageEnhance.Sharpness(image).enhance(1.6)),
        ("shear_x", 0.2, affine(1, 0.2, 0, 0, 1, 0)),
        ("shear_y", 0.2, affine(1, 0, 0, 0.2, 1, 0)),
        ("translate_x", 0.25, affine(1, 0, -6, 0, 1, 0)),
        ("translate_y", 0.25, affine(1, 0, 0, 0, 1, -6)),
    ],
)
def test_each_change_is_that_of_pillow(
    name: str, amount: float, expected: Callable[[Image.Image], Image.Image]
) -> None:
    frames = clips()
    result = apply(name, amount, frames)[0].numpy().astype(int)
    reference = [np.asarray(expected(Image.fromarray(frame))) for frame in frames[0].numpy()]
    assert np.abs(result - frames[0].numpy()).mean() > 0.5, "it does something"
    error = np.abs(result - np.stack(reference).astype(int))
    assert np.median(error) <= 1
    assert (error > 4).mean() < 0.1, "edges are filled a little differently"


def test_all_changes_are_tested() -> None:
    assert len(NAMES) == 15


def test_clips_are_changed_as_they_were_drawn_and_the_input_is_left_alone() -> None:
    frames = clips(3)
    before = frames.clone()
    draws = torch.full((3, 2, 2), -1.0)
    draws[1, 0, 0] = NAMES.index("invert")
    draws[2] = torch.tensor([[NAMES.index("invert"), 0.0], [NAMES.index("brightness"), 0.5]])
    result = rand_augment(frames, draws)
    assert torch.equal(result[0], frames[0])
    assert torch.equal(result[1], 255 - frames[1])
    brighter = ((255 - frames[2]).float() * 1.5).clamp(max=255)
    assert (result[2].float() - brighter).abs().max() <= 1
    assert torch.equal(frames, before)


def test_draws_follow_the_recipe() -> None:
    rng = np.random.default_rng(0)
    draws = np.concatenate([draw_rand_augment(RandAugmentSpec(), rng) for _ in range(2000)])
    assert draws.dtype == np.float32
    assert draws.shape == (8000, 2)
    assert 0.47 < (draws[:, 0] >= 0).mean() < 0.53
    assert set(draws[:, 0]) == {-1.0, *map(float, range(15))}
    turns = draws[draws[:, 0] == NAMES.index("rotate"), 1]
    assert 0.35 < (turns < 0).mean() < 0.65
    assert abs(np.abs(turns).mean() - 21) < 0.5
    assert abs(np.abs(turns).std() - 1.5) < 0.4


def test_largest_and_smallest_magnitudes_work_on_any_size() -> None:
    for magnitude in (0.0, 10.0):
        spec = RandAugmentSpec(num_ops=15, magnitude=magnitude, probability=1.0)
        draws = torch.from_numpy(draw_rand_augment(spec, np.random.default_rng(1)))[None]
        for size in (8, 33):
            assert rand_augment(clips(1, size), draws).shape == (1, 3, size, size, 3)
