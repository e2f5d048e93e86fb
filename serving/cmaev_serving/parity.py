"""Proof that an exported model computes what the PyTorch model computes."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from cmaev_spec.base import Spec

Frames = NDArray[np.uint8]
Logits = NDArray[np.float32]
TOLERANCE = 1e-4
BATCH_SIZES = (1, 2, 3)


class ParityCase(Spec):
    """One comparison."""

    input: str
    batch_size: int
    max_difference: float


class ParityReport(Spec):
    """What was compared, and how close it came."""

    tolerance: float
    max_difference: float
    cases: tuple[ParityCase, ...]


class ParityError(RuntimeError):
    """The exported model differs from the PyTorch model."""


def check_parity(
    reference: Callable[[Frames], Logits],
    exported: Callable[[Frames], Logits],
    clip_shape: tuple[int, int, int, int],
    *,
    seed: int = 0,
) -> ParityReport:
    """Compares both models on random, black and white clips at several batch sizes.

    Args:
        reference: uint8 frames (B, T, H, W, 3) -> logits (B, classes), in PyTorch.
        exported: the same by the exported model.
        clip_shape: (T, H, W, 3).
        seed: of the random clips.

    Raises:
        ParityError: if a logit differs by more than TOLERANCE, absolute and relative, or another
            label wins; the message holds the largest difference.
    """
    cases = []
    for name, frames in _inputs(clip_shape, seed):
        expected, actual = reference(frames), exported(frames)
        if expected.shape != actual.shape:
            raise ParityError(f"parity: logits of shape {actual.shape}, not {expected.shape}")
        difference = np.abs(expected - actual)
        largest = float(difference.max())
        where = f"on {name} clips, batch of {len(frames)}"
        if not np.all(difference <= TOLERANCE + TOLERANCE * np.abs(expected)):
            raise ParityError(
                f"parity: the exported model differs from PyTorch by up to {largest:.3g} {where} "
                f"(allowed: {TOLERANCE:g}); nothing was written"
            )
        if _other_winner(expected, actual):
            raise ParityError(f"parity: another label wins {where}; nothing was written")
        cases.append(ParityCase(input=name, batch_size=len(frames), max_difference=largest))
    return ParityReport(
        tolerance=TOLERANCE,
        max_difference=max(case.max_difference for case in cases),
        cases=tuple(cases),
    )


def _inputs(clip_shape: tuple[int, int, int, int], seed: int) -> Iterator[tuple[str, Frames]]:
    generator = np.random.default_rng(seed)
    for size in BATCH_SIZES:
        shape = (size, *clip_shape)
        yield "random", generator.integers(0, 256, shape, dtype=np.uint8)
        yield "black", np.zeros(shape, np.uint8)
        yield "white", np.full(shape, 255, np.uint8)


def _other_winner(expected: Logits, actual: Logits) -> bool:
    """Whether a clip's best label differs by more than a tie within the tolerance."""
    rows = np.arange(len(expected))
    gap = expected.max(axis=1) - expected[rows, actual.argmax(axis=1)]
    return bool(np.any(gap > 2 * TOLERANCE))
