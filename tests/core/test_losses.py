"""Golden values come from formulas written here, not from the functions under test."""

import math

import numpy as np
import pytest
import torch

from cmaev.losses import info_nce, reconstruction_loss


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
