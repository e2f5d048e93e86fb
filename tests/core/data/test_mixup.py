"""Mixup and CutMix: where, how much, and that time is never cut."""

import pytest
import torch

from cmaev.data.erasing import NO_BOX
from cmaev.data.mixup import Mixing, draw_mixing, mix
from cmaev.data.transforms import Box


def drawn(count: int, *, mixup: float, cutmix: float) -> list[Mixing]:
    torch.manual_seed(0)
    return [draw_mixing(mixup=mixup, cutmix=cutmix, height=20, width=30) for _ in range(count)]


def test_mixup_blends_each_clip_with_its_counterpart() -> None:
    video = torch.randn(4, 3, 2, 8, 8)
    mixed = mix(video, Mixing(0.7))
    torch.testing.assert_close(mixed[0], 0.7 * video[0] + 0.3 * video[3])
    torch.testing.assert_close(mixed[2], 0.7 * video[2] + 0.3 * video[1])


def test_cutmix_never_cuts_time() -> None:
    video = torch.arange(4.0)[:, None, None, None, None].expand(4, 3, 5, 8, 10).contiguous()
    mixed = mix(video, Mixing(0.7, Box(2, 1, 4, 6)))
    assert (mixed[0, :, :, 1:7, 2:6] == 3).all(), "all channels and frames"
    assert (mixed == 3).sum() == 3 * 5 * 24 + 3 * 5 * (80 - 24)
    assert (video[0] == 0).all()


def test_off_is_off_and_draws_nothing() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    mixing = draw_mixing(mixup=0, cutmix=0, height=8, width=8)
    assert torch.equal(torch.get_rng_state(), state)
    video = torch.randn(2, 3, 2, 8, 8)
    assert mix(video, mixing) is video


def test_shares_are_beta_and_those_of_the_boxes() -> None:
    mixings = drawn(600, mixup=0.0, cutmix=1.0)
    for mixing in mixings:
        left, top, width, height = mixing.box
        assert 0 <= left <= left + width <= 30
        assert 0 <= top <= top + height <= 20
        assert mixing.share == pytest.approx(1 - width * height / 600)
    blends = torch.tensor([mixing.share for mixing in drawn(600, mixup=0.8, cutmix=0.0)])
    assert abs(blends.mean() - 0.5) < 0.05
    assert abs(blends.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.015, "of Beta(0.8, 0.8)"


def test_half_of_the_batches_are_cut_where_both_are_on() -> None:
    mixings = drawn(400, mixup=0.8, cutmix=1.0)
    cut = sum(mixing.box != NO_BOX for mixing in mixings)
    assert 150 < cut < 250


def test_a_restored_generator_mixes_alike() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = [draw_mixing(mixup=0.8, cutmix=1.0, height=9, width=9) for _ in range(5)]
    torch.set_rng_state(state)
    assert first == [draw_mixing(mixup=0.8, cutmix=1.0, height=9, width=9) for _ in range(5)]
