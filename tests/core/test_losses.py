"""Golden values come from formulas written here, not from the functions under test."""

import math

import numpy as np
import pytest
import torch

from cmaev.losses import info_nce, pixel_targets, reconstruction_loss, tubelets


def test_tubelets_are_in_raster_order_pixels_before_channels():
    video = torch.arange(1 * 3 * 4 * 4 * 4).reshape(1, 3, 4, 4, 4).float()
    cut = tubelets(video, tubelet_size=2, patch_size=2)
    assert cut.shape == (1, 8, 8, 3)
    token = (1 * 2 + 0) * 2 + 1  # t=1, h=0, w=1
    pixel = (1 * 2 + 1) * 2 + 0  # frame 1, row 1, column 0 of the tubelet
    assert torch.equal(cut[0, token, pixel], video[0, :, 3, 1, 2])


def test_targets_are_standardised_per_tubelet_and_channel():
    rng = np.random.default_rng(0)
    video = rng.random((2, 3, 4, 16, 16)).astype(np.float32)
    targets = pixel_targets(torch.from_numpy(video), tubelet_size=2, patch_size=8).numpy()
    assert targets.shape == (2, 8, 2 * 8 * 8 * 3)
    block = video[1, 2, 2:4, 8:16, 0:8].astype(np.float64).reshape(-1)  # t=1, h=1, w=0, channel 2
    n = block.size
    mean = block.sum() / n
    deviation = math.sqrt(((block - mean) ** 2).sum() / (n - 1))
    expected = (block - mean) / (deviation + 1e-6)
    token = (1 * 2 + 1) * 2 + 0
    np.testing.assert_allclose(targets[1, token, 2::3], expected, rtol=1e-4, atol=1e-5)


def test_flat_tubelets_give_finite_targets():
    targets = pixel_targets(torch.full((1, 3, 2, 8, 8), 0.5), tubelet_size=2, patch_size=8)
    assert torch.equal(targets, torch.zeros_like(targets))


def test_reconstruction_is_the_plain_mean():
    prediction, target = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.0, 4.0]]])
    assert reconstruction_loss(prediction, target).item() == pytest.approx((1 + 4) / 2)


def test_info_nce_is_equation_5_by_hand_for_four_clips():
    rng = np.random.default_rng(3)
    query, key = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    tau = 0.07
    losses = []
    for i in range(4):
        cosines = [
            sum(query[i] * key[j]) / (math.sqrt(sum(query[i] ** 2)) * math.sqrt(sum(key[j] ** 2)))
            for j in range(4)
        ]
        total = sum(math.exp(c / tau) for c in cosines)
        losses.append(-math.log(math.exp(cosines[i] / tau) / total))
    contrast = info_nce(torch.tensor(query), torch.tensor(key), temperature=tau)
    assert contrast.loss.item() == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_info_nce_leaves_the_keys_without_gradient():
    query = torch.randn(4, 6, requires_grad=True)
    key = torch.randn(4, 6, requires_grad=True)
    info_nce(query, key, temperature=0.1).loss.backward()
    assert query.grad is not None
    assert key.grad is None


def test_equal_views_are_told_apart():
    key = torch.eye(5)
    contrast = info_nce(key, key, temperature=0.07)
    assert contrast.instance_accuracy.item() == 1
    assert contrast.positive_similarity.item() == pytest.approx(1)
    assert contrast.negative_similarity.item() == pytest.approx(0, abs=1e-6)


def test_info_nce_has_a_shape_on_a_device_without_autocast():
    query = torch.zeros(4, 8, device="meta")
    assert info_nce(query, query, temperature=0.07).loss.shape == ()


def test_info_nce_is_fp32_under_autocast():
    query, key = torch.randn(2, 8, 64).unbind()
    expected = info_nce(query, key, temperature=0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        contrast = info_nce(query, key, temperature=0.07)
    assert all(map(torch.equal, contrast, expected))
