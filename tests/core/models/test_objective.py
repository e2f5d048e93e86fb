"""The switches of the objective: each does what it says, and none acts by default."""

import math

import numpy as np
import pytest
import torch

from cmaev.losses import info_nce
from cmaev.masking import tube_mask
from cmaev.models import create_pretraining_model
from cmaev.models.pixels import tubelets
from cmaev.models.tokens import gather_tokens, random_subset, split_mask
from cmaev_spec.model import ObjectiveSpec

NANO = "cmaev_vit_nano_patch8_32"
N = 64


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    mask = np.stack([tube_mask((4, 4, 4), 0.75, rng) for _ in range(6)])
    videos = torch.randn(2, 6, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    return videos[0], videos[1], torch.from_numpy(mask)


def make(name=NANO, **arguments):
    torch.manual_seed(0)
    return create_pretraining_model(name, **arguments)


def backward(model, batch):
    out = model(*batch)
    out["loss"].backward()
    return out


def test_the_mean_of_the_visible_tokens_is_contrasted(batch):
    online, target, mask = batch
    model = make()
    visible, _ = split_mask(mask)
    query = model.predictor(model.projector(model.encoder(online, visible).mean(1)))
    key = model.target_projector(model.target_encoder(target).mean(1))
    expected = info_nce(query, key, temperature=0.07).loss
    torch.testing.assert_close(model(*batch)["loss_contrastive"], expected.detach())


def test_the_feature_decoder_completes_the_clip_and_learns(batch):
    online, target, mask = batch
    model = make(online_feature="feature_decoder")
    visible, hidden = split_mask(mask)
    completed = model.feature_decoder(model.encoder(online, visible), visible, hidden)
    assert completed.shape == (6, N, 128)
    query = model.predictor(model.projector(completed.mean(1)))
    key = model.target_projector(model.target_encoder(target).mean(1))
    out = backward(model, batch)
    torch.testing.assert_close(
        out["loss_contrastive"], info_nce(query, key, temperature=0.07).loss.detach()
    )
    for name, parameter in model.feature_decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_symmetric_loss_is_the_mean_of_both_directions(batch):
    online, target, mask = batch
    model = make()
    there = model(online, target, mask)
    back = model(target, online, mask)
    both = make(symmetric=True)(*batch)
    assert both["loss_reconstruction"] == there["loss_reconstruction"]
    for name in ("loss_contrastive", "positive_similarity", "negative_similarity"):
        torch.testing.assert_close(both[name], (there[name] + back[name]) / 2)


def test_dual_masking_decodes_a_share_of_the_hidden_tokens(batch):
    model = make(decoder_keep_ratio=0.5)
    seen = []
    model.decoder.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    out = backward(model, batch)
    (tokens, prediction), hidden = seen[0], 48
    assert tokens.shape[1] == N - hidden + hidden // 2
    assert prediction.shape[1] == hidden // 2
    assert math.isfinite(out["loss"].item())


def test_a_dual_masked_loss_is_that_of_the_tokens_it_decodes(batch):
    online, _, mask = batch
    model = make(decoder_keep_ratio=0.5, contrast_weight=0.0)
    visible, hidden = split_mask(mask)
    torch.manual_seed(5)
    kept = random_subset(hidden, 0.5)
    torch.manual_seed(5)
    loss = model(*batch)["loss"]
    prediction = model.decode(model.encoder(online, visible), visible, kept)
    error = (prediction - model.pixels(online, kept)).square().mean()
    torch.testing.assert_close(loss, error)


def test_plain_pixels_are_compared_as_they_are(batch):
    online, _, mask = batch
    model = make(norm_pix=False, contrast_weight=0.0)
    visible, hidden = split_mask(mask)
    prediction = model.decode(model.encoder(online, visible), visible, hidden)
    cut = tubelets(online, tubelet_size=2, patch_size=8).flatten(2)  # (B, N, P*C)
    error = (prediction - gather_tokens(cut, hidden)).square().mean()
    torch.testing.assert_close(model(*batch)["loss"], error)


def test_the_target_may_see_a_share_of_the_tokens(batch):
    _, target, _ = batch
    model = make(target_keep_ratio=0.25)
    assert model.encode_target(target).shape == (6, N // 4, 128)
    full = make().encode_target(target)
    assert full.shape == (6, N, 128)
    backward(model, batch)


def test_contrast_alone_leaves_the_decoder_without_gradient(batch):
    model = make(reconstruction_weight=0.0)
    out = backward(model, batch)
    torch.testing.assert_close(out["loss"].detach(), 2 * 0.07 * out["loss_contrastive"])
    assert all(not p.grad.any() for p in model.decoder.parameters())


def test_a_random_subset_is_part_of_its_row_in_order():
    rows = torch.stack([torch.randperm(100)[:40].sort().values for _ in range(8)])
    subset = random_subset(rows, 0.3)
    assert subset.shape == (8, 12)
    for row, part in zip(rows.tolist(), subset.tolist(), strict=True):
        assert part == sorted(set(part))
        assert set(part) <= set(row)
    assert len({tuple(part) for part in subset.tolist()}) == 8
    assert random_subset(rows, 1.0) is rows


@pytest.mark.parametrize("step", [0, 1, 250, 999])
def test_momentum_schedules_are_the_closed_formulas(step):
    constant = ObjectiveSpec(momentum=0.99)
    cosine = ObjectiveSpec(momentum=0.99, momentum_schedule="cosine")
    assert constant.momentum_at(step, total_steps=1000) == 0.99
    expected = 1 - 0.01 * (math.cos(math.pi * step / 999) + 1) / 2
    assert cosine.momentum_at(step, total_steps=1000) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contrast_weight": -1.0}, "must not be negative"),
        ({"contrast_weight": 0.0, "reconstruction_weight": 0.0}, "nor both be 0"),
        ({"contrast_weight": float("nan")}, "contrast_weight"),
        ({"temperature": float("nan")}, "temperature"),
        (
            {"contrast_scale": "two-tau"},
            r"contrast_scale \('two-tau'\) must be one of two_tau, one",
        ),
        ({"online_feature": "visible"}, "online_feature .* must be one of visible_mean"),
        ({"target_precision": "fp4"}, "target_precision .* must be one of auto, fp8"),
        ({"decoder_depth": 0}, "decoder_depth"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"temperature": 0.0}, "temperature"),
        ({"decoder_keep_ratio": 0.0}, "decoder_keep_ratio"),
        ({"target_keep_ratio": 1.5}, "target_keep_ratio"),
        ({"num_frames": 7}, "num_frames"),
        ({"img_size": 30}, "img_size"),
    ],
)
def test_bad_numbers_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_a_setting_without_effect_is_told():
    with pytest.warns(UserWarning, match="symmetric: no effect while contrast_weight is 0") as seen:
        make(contrast_weight=0.0, symmetric=True)
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match="decoder_keep_ratio: no effect"):
        make(reconstruction_weight=0.0, decoder_keep_ratio=0.5)


def test_unknown_models_are_answered_with_those_there_are():
    with pytest.raises(ValueError, match="cmaev_vit_base_patch16_224"):
        make("cmaev_vit_giant")


@pytest.mark.parametrize(
    "shape", [(6, 1, 8, 32, 32), (6, 3, 6, 32, 32), (6, 3, 8, 32, 40), (3, 8, 32, 32)]
)
def test_clips_of_another_shape_are_refused(batch, shape):
    _, target, mask = batch
    with pytest.raises(ValueError, match=r"\(B, 3, 8, 32, 32\)"):
        make()(torch.zeros(shape), target, mask)


def test_frames_that_were_not_normalised_are_refused(batch):
    _, target, mask = batch
    with pytest.raises(ValueError, match=r"normalised floats, got torch.uint8"):
        make()(torch.zeros(target.shape, dtype=torch.uint8), target, mask)


def test_an_empty_batch_is_refused(batch):
    with pytest.raises(ValueError, match="at least one clip"):
        make()(*(part[:0] for part in batch))


def test_double_precision_trains(batch):
    online, target, mask = batch
    out = backward(make().double(), (online.double(), target.double(), mask))
    torch.testing.assert_close(out["loss"].float(), make()(*batch)["loss"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask.float(), "bool"),
        (lambda mask: torch.ones_like(mask), "at least one token must be visible"),
        (lambda mask: torch.zeros_like(mask), "at least one hidden"),
        (lambda mask: mask & (torch.arange(6) > 0)[:, None], "same number"),
    ],
)
def test_bad_masks_are_refused(batch, change, message):
    online, target, mask = batch
    with pytest.raises(ValueError, match=message):
        make()(online, target, change(mask))


@pytest.mark.parametrize(
    ("clips", "rows", "columns", "message"),
    [
        (6, 3, 64, r"mask must be \(B, N\) = \(6, 64\)"),
        (6, 6, 32, r"mask must be \(B, N\) = \(6, 64\)"),
        (3, 6, 64, "target must have the shape of online"),
    ],
)
def test_parts_of_other_batches_are_refused(batch, clips, rows, columns, message):
    online, target, mask = batch
    with pytest.raises(ValueError, match=message):
        make()(online, target[:clips], mask[:rows, :columns])


def test_a_mask_that_is_not_the_count_given_is_refused(batch):
    with pytest.raises(ValueError, match="num_visible is 12"):
        make()(*batch, num_visible=12)


def test_a_batch_of_one_cannot_be_contrasted(batch):
    one = [part[:1] for part in batch]
    with pytest.raises(ValueError, match="at least 2 clips"):
        make()(*one)
    assert math.isfinite(make(contrast_weight=0.0)(*one)["loss"].item())
