"""Colour augmentation of the target view: against torchvision, and how often what is drawn."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cmaev.data.color import HUE, ColorDraw, augment_color, draw_color

CHANGES: tuple[Callable[[Tensor, float], Tensor], ...] = (
    F.adjust_brightness,
    F.adjust_contrast,
    F.adjust_saturation,
    F.adjust_hue,
)


def draws(count: int) -> list[ColorDraw]:
    rng = np.random.default_rng(0)
    return [draw_color(rng) for _ in range(count)]


def pack(drawn: list[ColorDraw]) -> Tensor:
    return torch.from_numpy(np.stack([draw.pack() for draw in drawn]))


def clips(count: int, size: int) -> Tensor:
    """Random clips (B, T, S, S, C), some of them grey, some of them of one colour."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (count, 3, size, size, 3), generator=generator)
    frames[0::7] = frames[0::7, ..., :1]
    frames[1::7] = frames[1::7, :, :1, :1]
    return frames.to(torch.uint8)


def reference(frames: Tensor, draw: ColorDraw) -> Tensor:
    """One clip (T, H, W, C) by torchvision's functions: in the dtype it comes in."""
    clip = frames.permute(0, 3, 1, 2)  # (T, C, H, W)
    steps = list(zip(draw.changes, draw.amounts, strict=True))
    steps.insert(int(draw.hue_place), (HUE, draw.hue))
    for change, amount in steps:
        clip = CHANGES[int(change)](clip, amount)
    if draw.grey:
        clip = F.rgb_to_grayscale(clip, num_output_channels=3)
    reach = min(math.ceil(3 * draw.radius), min(clip.shape[-2:]) - 1)
    if reach >= 1:
        clip = F.gaussian_blur(clip, [2 * reach + 1] * 2, [draw.radius] * 2)
    return clip.permute(0, 2, 3, 1)


@pytest.mark.parametrize("size", [1, 2, 8, 33])
def test_it_is_what_torchvision_does_to_each_clip(size: int) -> None:
    drawn = draws(60)
    assert {int(draw.hue_place) for draw in drawn} == {0, 1, 2, 3}
    frames = clips(60, size)
    result = augment_color(frames, pack(drawn))
    exact = [reference(f.float() / 255, draw) * 255 for f, draw in zip(frames, drawn, strict=True)]
    torch.testing.assert_close(result, torch.stack(exact), rtol=0, atol=0.01)
    rounded = [reference(f, draw).float() for f, draw in zip(frames, drawn, strict=True)]
    error = (result - torch.stack(rounded)).abs()
    assert error.max() < 8, "torchvision rounds after each change of uint8 clips"
    assert error.mean() < 2


def test_clips_of_a_batch_do_not_touch_each_other() -> None:
    drawn, frames = draws(9), clips(9, 16)
    together = augment_color(frames, pack(drawn))
    alone = [augment_color(frames[k : k + 1], pack(drawn[k : k + 1]))[0] for k in range(9)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-3)


def test_the_default_draw_changes_nothing() -> None:
    frames = clips(7, 16)
    result = augment_color(frames, pack([ColorDraw()] * 7))
    torch.testing.assert_close(result, frames.float(), rtol=0, atol=1e-3)


def test_autocast_does_not_coarsen_it() -> None:
    drawn, frames = pack(draws(20)), clips(20, 16)
    with torch.autocast("cpu", torch.bfloat16):
        result = augment_color(frames, drawn)
    torch.testing.assert_close(result, augment_color(frames, drawn), rtol=0, atol=1e-3)


def test_it_can_be_compiled_as_one_graph() -> None:
    """No branch depends on what is drawn, so nothing waits for the device."""
    graphs = []

    def count(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(augment_color, backend=count, fullgraph=True)
    drawn, frames = draws(12), clips(6, 8)
    for part in (drawn[:6], drawn[6:]):
        torch.testing.assert_close(compiled(frames, pack(part)), augment_color(frames, pack(part)))
    assert len(graphs) == 1


def test_half_precision_as_on_gpus_is_a_fraction_of_a_level_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn, frames = pack(draws(20)), clips(20, 16)
    exact = augment_color(frames, drawn)
    monkeypatch.setattr("cmaev.data.device.mixing_dtype", lambda _device: torch.float16)
    halved = augment_color(frames, drawn)
    assert not torch.equal(halved, exact)
    torch.testing.assert_close(halved, exact, rtol=0, atol=0.3)


def test_each_part_is_drawn_as_often_as_it_should_be() -> None:
    drawn = draws(3000)
    jitter = np.mean([draw.amounts != (1, 1, 1) for draw in drawn])
    grey = np.mean([draw.grey for draw in drawn])
    radius = np.array([draw.radius for draw in drawn])
    assert abs(jitter - 0.8) < 0.04
    assert abs(grey - 0.2) < 0.04
    assert abs((radius > 0).mean() - 0.5) < 0.04
    assert 0.1 <= radius[radius > 0].min() < 0.3
    assert 1.8 < radius.max() <= 2.0
    amounts = np.array([draw.amounts for draw in drawn])
    assert 0.6 <= amounts.min() < 0.62
    assert 1.38 < amounts.max() <= 1.4
    assert len({(draw.changes, draw.hue_place) for draw in drawn}) == 24, "any order"
