import numpy as np
import pytest
import torch

from cmaev.masking import num_visible, tube_mask
from cmaev.models import create_pretraining_model
from cmaev.models.tokens import split_mask

NANO = "cmaev_vit_nano_patch8_32"


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    mask = np.stack([tube_mask((4, 4, 4), 0.9, rng) for _ in range(6)])
    generator = torch.Generator().manual_seed(0)
    videos = torch.randn(2, 6, 3, 8, 32, 32, generator=generator)
    return videos[0], videos[1], torch.from_numpy(mask)


def make(**arguments):
    torch.manual_seed(0)
    return create_pretraining_model(NANO, **arguments)


def test_the_loss_is_the_weighted_sum(batch):
    model = make(contrast_weight=3.0, temperature=0.1)
    out = model(*batch)
    expected = out["loss_reconstruction"] + 3.0 * 2 * 0.1 * out["loss_contrastive"]
    torch.testing.assert_close(out["loss"].detach(), expected)


def test_contrast_scale_one_drops_the_factor(batch):
    out = make(contrast_scale="one")(*batch)
    expected = out["loss_reconstruction"] + out["loss_contrastive"]
    torch.testing.assert_close(out["loss"].detach(), expected)


def test_without_contrast_there_is_no_target(batch):
    model = make(contrast_weight=0.0)
    out = model(*batch)
    assert set(out) == {"loss", "loss_reconstruction"}
    assert not any(name.startswith(("target", "projector")) for name in model.state_dict())


def test_gradients_reach_the_online_branch_only(batch):
    model = make()
    model(*batch)["loss"].backward()
    for name, parameter in model.named_parameters():
        if name.startswith("target_"):
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_the_target_starts_as_a_copy_and_follows_by_ema(batch):
    model = make()
    before = {n: p.clone() for n, p in model.target_encoder.named_parameters()}
    for name, parameter in model.encoder.named_parameters():
        assert torch.equal(parameter, before[name])
        parameter.data.add_(1.0)
    model.update_target(0.9)
    for name, parameter in model.target_encoder.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.1, rtol=1e-5, atol=1e-6)


def test_the_target_sees_the_whole_clip_of_its_own_view(batch):
    online, target, mask = batch
    model = make()
    other = model(online, target.flip(2), mask)
    same = model(online, target, mask)
    assert other["loss_reconstruction"] == same["loss_reconstruction"]
    assert other["loss_contrastive"] != same["loss_contrastive"]


def test_target_without_final_norm_differs(batch):
    _, target, _ = batch
    torch.testing.assert_close(
        make().encode_target(target),
        make().target_encoder.norm(make(target_final_norm=False).encode_target(target)),
    )


def test_the_count_may_be_given_or_read(batch):
    model = make()
    read = model(*batch)["loss"]
    given = model(*batch, num_visible=num_visible((4, 4, 4), 0.9))["loss"]
    assert torch.equal(read, given)


def test_uneven_masks_are_refused(batch):
    online, target, mask = batch
    mask = mask.clone()
    mask[0] = True
    with pytest.raises(ValueError, match="same number"):
        make()(online, target, mask)


def test_split_mask_keeps_raster_order():
    mask = torch.tensor([[True, False, True, False], [False, True, True, False]])
    visible, hidden = split_mask(mask)
    assert visible.tolist() == [[1, 3], [0, 3]]
    assert hidden.tolist() == [[0, 2], [1, 2]]


def test_one_batch_can_be_overfitted(batch):
    model = make()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(25):
        out = model(*batch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        model.update_target(0.99)
        losses.append(out["loss"].item())
    assert losses[-1] < 0.8 * losses[0]
    assert out["instance_accuracy"] > 0.9


def test_the_target_is_never_stochastic(batch):
    _, target, _ = batch
    model = make(drop_path_rate=0.5).train()
    assert torch.equal(model.encode_target(target), model.encode_target(target))
    assert model.encoder.training
    assert model.target_projector.training


def test_a_target_that_goes_in_parts_is_the_same(batch, monkeypatch):
    _, target, _ = batch
    model = make()
    assert model.encoder.clips_at_once(target.device) > len(target)
    whole = model.target_feature(target)
    monkeypatch.setattr("cmaev.models.encoder.MALLOC_KEEPS", 2 * 4 * 4 * 128 * 64)
    assert model.encoder.clips_at_once(target.device) == 2
    torch.testing.assert_close(model.target_feature(target), whole, rtol=1e-5, atol=1e-6)
    assert model.encoder.clips_at_once(torch.device("cuda")) > 10_000
