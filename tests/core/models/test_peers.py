"""Our models against `transformers`' VideoMAE, which others wrote, and against formulas.

Shapes: B clips, T frames, N tokens. Masks are True = hidden.
"""

import math

import numpy as np
import pytest
import torch

from cmaev.checkpoints.huggingface import from_huggingface
from cmaev.masking import tube_mask
from cmaev.models import create_model, create_pretraining_model
from cmaev.models.tokens import split_mask
from cmaev.models.tubelet import sincos_table

NANO = "cmaev_vit_nano_patch8_32"
BASE = "cmaev_vit_base_patch16_224"
TOLERANCE = 1e-5
VIDEOMAE_EPS = 1e-6


def difference(ours, theirs):
    """The norm of the difference as a share of the norm."""
    return ((ours - theirs).norm() / theirs.norm()).item()


def clip(ours, *, batch, seed=0):
    """(B, C, T, H, W) of noise in the shape that a model takes."""
    slots, side, _ = ours.encoder.grid
    frames, size = slots * ours.encoder.tubelet_size, side * ours.encoder.patch_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, frames, size, size, generator=generator)


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours, theirs):
    expected = from_huggingface(gradients(theirs), {}).tensors
    found = gradients(ours)
    assert found.keys() == expected.keys()
    assert len(found) == len(list(ours.parameters()))
    far = {name: difference(found[name], expected[name]) for name in found}
    assert max(far.values()) < TOLERANCE, max(far, key=far.get)


@pytest.mark.parametrize(("name", "batch"), [(NANO, 3), (BASE, 1)])
def test_pretraining_is_videomaes(name, batch, videomae_config, with_random_weights):
    from transformers import VideoMAEForPreTraining

    theirs = with_random_weights(
        VideoMAEForPreTraining(videomae_config(name, use_mean_pooling=False))
    )
    theirs.decoder.norm.eps = VIDEOMAE_EPS  # no setting of theirs reaches this layer
    ours = create_pretraining_model(name, contrast_weight=0.0).eval()
    ours.load_state_dict(from_huggingface(theirs.state_dict(), {}).tensors)

    video = clip(ours, batch=batch)
    rng = np.random.default_rng(0)
    mask = torch.from_numpy(
        np.stack([tube_mask(ours.encoder.grid, 0.9, rng) for _ in range(batch)])
    )
    frames_first = video.transpose(1, 2)
    with torch.no_grad():
        tokens = ours.encoder(video, split_mask(mask)[0])
        expected = theirs.videomae(frames_first, bool_masked_pos=mask).last_hidden_state
    assert tokens.shape == expected.shape
    assert difference(tokens, expected) < TOLERANCE

    loss = ours(video, video, mask)["loss"]
    their_loss = theirs(frames_first, bool_masked_pos=mask).loss
    assert difference(loss, their_loss) < TOLERANCE
    loss.backward()
    their_loss.backward()
    assert_same_gradients(ours, theirs)


@pytest.mark.parametrize(
    ("name", "frames", "batch"),
    [(NANO, 8, 3), (BASE, 2, 1), pytest.param(BASE, 16, 2, marks=pytest.mark.slow)],
)
def test_classification_is_videomaes(name, frames, batch, videomae_config, with_random_weights):
    from transformers import VideoMAEForVideoClassification

    config = videomae_config(name, num_frames=frames, num_labels=5)
    theirs = with_random_weights(VideoMAEForVideoClassification(config))
    theirs.fc_norm.eps = VIDEOMAE_EPS  # no setting of theirs reaches this layer
    ours = create_model(name, num_classes=5, num_frames=frames).eval()
    ours.load_state_dict(from_huggingface(theirs.state_dict(), {}).tensors)

    video = clip(ours, batch=batch)
    label = torch.arange(batch) % 5
    logits = ours(video)
    their_logits = theirs(video.transpose(1, 2)).logits
    assert difference(logits, their_logits) < TOLERANCE
    torch.nn.functional.cross_entropy(logits, label).backward()
    torch.nn.functional.cross_entropy(their_logits, label).backward()
    assert_same_gradients(ours, theirs)


def test_the_encoder_alone_gives_videomaes_tokens(videomae_config, with_random_weights):
    from transformers import VideoMAEModel

    theirs = with_random_weights(VideoMAEModel(videomae_config(NANO, use_mean_pooling=False)))
    ours = create_pretraining_model(NANO, contrast_weight=0.0).eval()
    missing, unexpected = ours.load_state_dict(
        from_huggingface(theirs.state_dict(), {}).tensors, strict=False
    )
    assert not unexpected
    assert not [name for name in missing if name.startswith("encoder.")]
    video = clip(ours, batch=2)
    with torch.no_grad():
        expected = theirs(video.transpose(1, 2)).last_hidden_state
        assert difference(ours.encoder(video), expected) < TOLERANCE


@pytest.mark.parametrize(("positions", "width"), [(64, 128), (1568, 768)])
def test_the_position_table_follows_its_formula(positions, width):
    table = sincos_table(positions, width)[0]
    for position in (0, 1, 17, positions - 1):
        for column in (0, 1, 2, 3, width // 2 + 1, width - 2, width - 1):
            angle = position / 10_000 ** (2 * (column // 2) / width)
            expected = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert table[position, column].item() == pytest.approx(expected, abs=1e-6)
