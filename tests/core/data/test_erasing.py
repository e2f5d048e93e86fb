"""Random erasing."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmaev.data.erasing import NO_BOX, draw_erase_box, erase


@given(st.integers(8, 256), st.integers(0, 2**32 - 1))
def test_boxes_lie_inside_and_have_the_right_area(size: int, seed: int) -> None:
    box = draw_erase_box(size, probability=1.0, rng=np.random.default_rng(seed))
    if box != NO_BOX:
        assert 0 <= box.left <= box.left + box.width <= size
        assert 0 <= box.top <= box.top + box.height <= size
        slack = 2 * size
        assert 0.02 * size**2 - slack <= box.width * box.height <= size**2 / 3 + slack


def test_it_happens_as_often_as_it_should() -> None:
    rng = np.random.default_rng(0)
    boxes = [draw_erase_box(64, probability=0.25, rng=rng) for _ in range(2000)]
    assert 0.22 < np.mean([box != NO_BOX for box in boxes]) < 0.28


def test_one_box_is_filled_with_fresh_noise_in_every_frame() -> None:
    video = torch.full((2, 3, 4, 16, 16), 7.0)
    torch.manual_seed(0)
    erased = erase(video, torch.tensor([[2, 3, 5, 6], NO_BOX]))
    assert torch.equal(erased[1], video[1])
    box = erased[0, :, :, 3:9, 2:7]
    assert (box != 7).all()
    assert abs(box.mean()) < 0.3
    assert 0.8 < box.std() < 1.2
    assert not torch.equal(box[:, 0], box[:, 1])
    outside = erased[0].clone()
    outside[:, :, 3:9, 2:7] = 7
    assert torch.equal(outside, video[0])
    assert (video == 7).all()
