"""What the decoder is asked for, against formulas, and the way back to colours.

Shapes: B clips, C channels, N tokens, M hidden ones, P pixels of a tubelet and channel.
"""

import math

import numpy as np
import pytest
import torch

from cmaev.data.constants import IMAGENET_MEAN, IMAGENET_STD
from cmaev.models.pixels import PixelTarget, normalise_tubelets, tubelets
from cmaev.models.tokens import gather_tokens

MEAN, STD = (
    torch.tensor(values, dtype=torch.float64).reshape(3, 1, 1, 1)
    for values in (IMAGENET_MEAN, IMAGENET_STD)
)
GRID = (2, 2, 3)
HIDDEN = torch.tensor([[0, 3, 5, 11], [1, 2, 7, 8]])  # (B, M)


def make(**options):
    return PixelTarget(tubelet_size=2, patch_size=8, **options)


@pytest.fixture
def video():
    """(B, C, T, H, W), normalised, with flat tubelets and nearly flat ones."""
    values = torch.randn(2, 3, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    values[0, :, :2, :8, :8] = 0.25
    values[1, :, :2, :8, 8:16] *= 1e-6  # where the epsilon decides
    return values


def colours(video):
    return video.double() * STD + MEAN


def test_tubelets_are_in_raster_order_pixels_before_channels():
    video = torch.arange(1 * 3 * 4 * 4 * 4).reshape(1, 3, 4, 4, 4).float()
    cut = tubelets(video, tubelet_size=2, patch_size=2)
    assert cut.shape == (1, 8, 8, 3)
    token = (1 * 2 + 0) * 2 + 1  # t=1, h=0, w=1
    pixel = (1 * 2 + 1) * 2 + 0  # frame 1, row 1, column 0 of the tubelet
    assert torch.equal(cut[0, token, pixel], video[0, :, 3, 1, 2])


def test_the_targets_follow_their_formula():
    """(x - mean) / (unbiased std + 1e-6) per tubelet and channel, channel fastest."""
    p, rng = 4, np.random.default_rng(0)
    video = rng.random((1, 3, 4, 8, 12))  # (B, C, T, H, W)
    cut = tubelets(torch.from_numpy(video), tubelet_size=2, patch_size=p)  # (B, N, P, C)
    found = normalise_tubelets(cut).flatten(2)[0].numpy()
    assert found.shape == (2 * 2 * 3, 2 * p * p * 3)
    token = 0
    for t in range(2):
        for row in range(2):
            for column in range(3):
                for channel in range(3):
                    pixels = [
                        video[0, channel, 2 * t + i, p * row + j, p * column + k]
                        for i in range(2)
                        for j in range(p)
                        for k in range(p)
                    ]
                    mean = sum(pixels) / len(pixels)
                    variance = sum((x - mean) ** 2 for x in pixels) / (len(pixels) - 1)
                    expected = [(x - mean) / (math.sqrt(variance) + 1e-6) for x in pixels]
                    np.testing.assert_allclose(found[token, channel::3], expected, atol=1e-5)
                token += 1


def test_neither_picking_tubelets_nor_normalised_pixels_change_what_is_asked_for(video):
    cut = tubelets(colours(video), tubelet_size=2, patch_size=8)  # (B, N, P, C)
    expected = gather_tokens(normalise_tubelets(cut).flatten(2), HIDDEN)
    found = make()(video, HIDDEN)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
    assert torch.equal(found[0, 0], torch.zeros_like(found[0, 0]))  # flat, and finite


def test_plain_targets_are_the_pixels_that_the_encoder_sees(video):
    cut = tubelets(video, tubelet_size=2, patch_size=8)  # (B, N, P, C)
    found = make(norm_pix=False)(video.requires_grad_(), HIDDEN)
    assert torch.equal(found, gather_tokens(cut.flatten(2), HIDDEN))
    assert not found.requires_grad


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_perfect_prediction_gives_the_colours_back(video, norm_pix):
    target = make(norm_pix=norm_pix)
    rebuilt = target.rebuilt(target(video, HIDDEN), video, HIDDEN)  # (B, M, P*C)
    expected = gather_tokens(target.tubelets(colours(video)).flatten(2), HIDDEN)
    torch.testing.assert_close(rebuilt, expected.float(), rtol=0, atol=1e-5)


def test_tubelets_make_the_video_again(video):
    target = make()
    assert torch.equal(target.video(target.tubelets(video), GRID), video)
