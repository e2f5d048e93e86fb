import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmaev.masking import num_visible, tube_mask


@given(
    slots=st.integers(1, 8),
    height=st.integers(2, 14),
    width=st.integers(2, 14),
    ratio=st.floats(0.3, 0.95),
    seed=st.integers(0, 2**32 - 1),
)
def test_tubes_are_hidden_through_all_slots(slots, height, width, ratio, seed):
    grid = (slots, height, width)
    mask = tube_mask(grid, ratio, np.random.default_rng(seed)).reshape(slots, -1)
    assert (mask == mask[0]).all()
    assert mask[0].sum() == int(ratio * height * width)
    assert num_visible(grid, ratio) == (~mask).sum()


def test_the_paper_hides_176_of_196_tubes():
    assert num_visible((8, 14, 14), 0.9) == 160


def test_a_ratio_must_hide_at_least_one_tube():
    with pytest.raises(ValueError, match=r"mask_ratio 0\.01 hides 0 of 16"):
        num_visible((4, 4, 4), 0.01)


def test_the_largest_ratio_leaves_one_tube():
    assert num_visible((4, 4, 4), 0.99999) == 4


def test_a_grid_of_one_tube_cannot_be_masked():
    with pytest.raises(ValueError, match="hides 0 of 1"):
        num_visible((4, 1, 1), 0.9)


def test_masks_differ_between_draws():
    rng = np.random.default_rng(0)
    assert (tube_mask((4, 4, 4), 0.5, rng) != tube_mask((4, 4, 4), 0.5, rng)).any()
