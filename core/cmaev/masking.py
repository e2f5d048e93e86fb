"""Tube masking (paper section 3.1): one spatial mask, repeated over all time slots.

Masks are made where clips are made, on the CPU, and checked there; models only ever see masks with
the same number of hidden tokens in every sample.
"""

import numpy as np
import numpy.typing as npt


def num_hidden_per_slot(grid: tuple[int, int, int], ratio: float) -> int:
    """How many of the h*w tubes are hidden: `int(ratio * h * w)`, as in VideoMAE (method.md 1.3).

    Raises:
        ValueError: if that hides no tube or all of them.
    """
    _, height, width = grid
    hidden = int(ratio * height * width)
    if not 0 < hidden < height * width:
        raise ValueError(
            f"mask_ratio {ratio} hides {hidden} of {height * width} tubes; "
            "choose one that hides at least one and leaves at least one"
        )
    return hidden


def num_visible(grid: tuple[int, int, int], ratio: float) -> int:
    """Tokens of a clip that stay visible under `tube_mask`."""
    slots, height, width = grid
    return slots * (height * width - num_hidden_per_slot(grid, ratio))


def tube_mask(
    grid: tuple[int, int, int], ratio: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Draws a tube mask.

    Args:
        grid: tokens along (t, h, w).
        ratio: share of tubes to hide.
        rng: source of randomness.

    Returns:
        (N,) bool in (t, h, w) order with N = t*h*w; True = hidden.
    """
    slots, height, width = grid
    slot = np.zeros(height * width, dtype=np.bool_)  # (h*w,), True = hidden
    slot[: num_hidden_per_slot(grid, ratio)] = True
    rng.shuffle(slot)
    return np.tile(slot, slots)  # (N,)
