"""The models learn: one batch by heart, and no collapse under contrast alone."""

import numpy as np
import pytest
import torch

from cmaev.data.synth_scene import SYNTH_CLASSES, draw_scene, render
from cmaev.masking import tube_mask
from cmaev.models import create_pretraining_model

MODELS = ["cmaev_vit_nano_patch8_32", "cmaev_convvit_nano_patch8_32"]
FRAMES = 8


def scenes(count, *, seed=0):
    """Two views (2, count, C, T, 32, 32) of generated videos, the target two frames later."""
    rng = np.random.default_rng(seed)
    views = []
    for number in range(count):
        label = SYNTH_CLASSES[number % len(SYNTH_CLASSES)]
        frames = render(draw_scene(rng), label)[:, ::2, ::2]  # (T, 32, 32, C)
        start = rng.integers(4)
        views.append([frames[start + shift : start + shift + 2 * FRAMES : 2] for shift in (0, 2)])
    video = torch.from_numpy(np.asarray(views, dtype=np.float32) / 255)  # (B, 2, T, H, W, C)
    return ((video - 0.45) / 0.225).permute(1, 0, 5, 2, 3, 4)


def masks(count, *, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([tube_mask((4, 4, 4), 0.75, rng) for _ in range(count)]))


def train(model, batches, *, steps, lr=2e-3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    history = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 20)
        out = model(*batches(step))
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_target(0.996)
        history.append({name: value.item() for name, value in out.items()})
    return history


@pytest.mark.parametrize("name", MODELS)
def test_a_fixed_batch_is_learnt_by_heart(name):
    torch.manual_seed(0)
    online, target = scenes(4)
    mask = masks(4)
    history = train(create_pretraining_model(name), lambda _: (online, target, mask), steps=200)
    for part in ("loss_reconstruction", "loss_contrastive"):
        assert history[-1][part] < history[0][part] / 5, part


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MODELS)
def test_contrast_alone_does_not_collapse(name):
    """Collapse sends the deviation of unit features to 0; random ones have 1 / sqrt(D)."""
    torch.manual_seed(0)
    videos = [scenes(32, seed=seed) for seed in range(10)]
    model = create_pretraining_model(name, reconstruction_weight=0.0)
    history = train(
        model,
        lambda step: (*videos[step % len(videos)], masks(32, seed=step)),
        steps=300,
        lr=1e-3,
    )
    bound = 0.05 / model.encoder.embed_dim**0.5
    assert min(row["feature_std"] for row in history[20:]) > bound
    assert history[-1]["instance_accuracy"] > 0.5  # chance is 1 / 32
