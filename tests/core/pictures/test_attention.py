"""Attention maps: the weights that the model itself uses, on the frames they belong to."""

import numpy as np
import pytest
import torch

from cmaev.models import create_model, create_pretraining_model
from cmaev.models.attention import Attention
from cmaev.pictures.attention import overlay, received_attention


@pytest.mark.parametrize("name", ["cmaev_vit_nano_patch8_32", "cmaev_convvit_nano_patch8_32"])
def test_the_weights_are_those_of_the_forward_pass(name, with_random_weights, monkeypatch):
    """Recovered from the model's own attention: values that are one-hot show its weights."""
    encoder = with_random_weights(create_model(name, num_classes=2)).encoder
    video = torch.randn(2, 3, 8, 32, 32)
    seen = []

    def spy(q, k, v):
        N = q.shape[2]
        shown = torch.eye(N).expand(*q.shape[:2], N, N)
        seen.append(original(q, k, shown))  # (B, h, N, N)
        return original(q, k, v)

    original = torch.nn.functional.scaled_dot_product_attention
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        encoder(video)
    expected = seen[-1].mean(dim=(1, 2)).reshape(2, *encoder.grid)
    received = received_attention(encoder, video)
    torch.testing.assert_close(received, expected)
    torch.testing.assert_close(received.sum(dim=(1, 2, 3)), torch.ones(2))


def test_looking_leaves_the_model_as_it_was():
    model = create_pretraining_model("cmaev_vit_nano_patch8_32", contrast_weight=0.0)
    received_attention(model.encoder, torch.zeros(1, 3, 8, 32, 32))
    assert model.encoder.training
    assert not any(
        part._forward_pre_hooks for part in model.modules() if isinstance(part, Attention)
    )


def test_a_token_lights_up_its_own_pixels_in_its_own_frames():
    frames = np.full((8, 32, 32, 3), 100, np.uint8)
    received = np.full((4, 4, 4), 0.01)
    received[1, 2, 3] = 0.5
    brightness = overlay(frames, received).sum(axis=-1)
    bright = brightness > brightness.min()
    expected = np.zeros_like(bright)
    expected[2:4, 16:24, 24:32] = True
    assert np.array_equal(bright, expected)
    even = overlay(frames, np.full((4, 4, 4), 1 / 64))
    assert len(np.unique(even.reshape(-1, 3), axis=0)) == 1
