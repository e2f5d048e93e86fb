"""Compiled models: one graph without breaks, and the eager results."""

import copy

import numpy as np
import pytest
import torch

from cmaev.masking import num_visible, tube_mask
from cmaev.models import create_model, create_pretraining_model

MODELS = ["cmaev_vit_nano_patch8_32", "cmaev_convvit_nano_patch8_32"]
GRID = (4, 4, 4)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(np.stack([tube_mask(GRID, 0.75, rng) for _ in range(4)]))
    videos = torch.randn(2, 4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(seed))
    return videos[0], videos[1], mask, num_visible(GRID, 0.75)


@pytest.mark.parametrize(
    ("name", "switches"),
    [
        (MODELS[0], {}),
        pytest.param(MODELS[1], {}, marks=pytest.mark.slow),
        pytest.param(
            MODELS[0],
            {"online_feature": "feature_decoder", "symmetric": True},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_whole_objective_is_one_graph(name, switches):
    torch.manual_seed(0)
    eager = create_pretraining_model(name, **switches)
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend="aot_eager")
    expected, out = eager(*batch()), compiled(*batch())
    for key, value in expected.items():
        torch.testing.assert_close(out[key], value, rtol=1e-5, atol=1e-6)
    expected["loss"].backward()
    out["loss"].backward()
    for (key, one), two in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_kernels_made_by_inductor_give_the_eager_losses(name):
    torch.manual_seed(0)
    eager = create_pretraining_model(name)
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True)
    expected, out = eager(*batch()), compiled(*batch())
    for key, value in expected.items():
        torch.testing.assert_close(out[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [MODELS[0], pytest.param(MODELS[1], marks=pytest.mark.slow)])
def test_the_classifier_is_one_graph(name):
    model = create_model(name, num_classes=5).eval()
    video = batch()[0]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(video), model(video))
