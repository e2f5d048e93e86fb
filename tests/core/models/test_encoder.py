"""What all encoders share: layers for layer-wise rates, activation checkpointing."""

import pytest
import torch

from cmaev.models import create_encoder, create_pretraining_model
from cmaev.models.encoder import token_grid

NANO = ["cmaev_vit_nano_patch8_32", "cmaev_convvit_nano_patch8_32"]


def gradients(model, batch):
    model.zero_grad()
    torch.manual_seed(1)
    loss = model(*batch)["loss"]
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", NANO)
def test_checkpointing_changes_neither_the_loss_nor_a_gradient(name):
    torch.manual_seed(0)
    model = create_pretraining_model(name, drop_path_rate=0.5)
    mask = torch.ones(4, 64, dtype=torch.bool)
    mask[:, ::4] = False
    batch = (torch.randn(4, 3, 8, 32, 32), torch.randn(4, 3, 8, 32, 32), mask)
    loss, plain = gradients(model, batch)
    model.set_grad_checkpointing(True)
    calls = []
    norm = next(m for n, m in model.encoder.named_modules() if n.endswith(".0.norm1"))
    norm.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    again, saved = gradients(model, batch)
    assert len(calls) == 2, "the block did not run again in the backward pass"
    assert torch.equal(loss, again)
    assert plain.keys() == saved.keys()
    for key, gradient in plain.items():
        assert torch.equal(gradient, saved[key]), key


@pytest.mark.parametrize("name", NANO)
def test_every_parameter_has_a_layer(name):
    encoder = create_encoder(name)
    layers = {encoder.layer_id(key) for key, _ in encoder.named_parameters()}
    assert layers == set(range(encoder.num_layers + 2))


@pytest.mark.parametrize(("frames", "size"), [(7, 32), (0, 32), (8, 33), (8, 0)])
def test_clips_that_cannot_be_cut_are_refused(frames, size):
    with pytest.raises(ValueError, match="must be a positive multiple"):
        token_grid(num_frames=frames, img_size=size, tubelet_size=2, patch_size=8)
