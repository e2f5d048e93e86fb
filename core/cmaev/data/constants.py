"""Statistics that the models normalise their input with: RGB, on a scale of 0 to 1."""

from typing import Final

IMAGENET_MEAN: Final[tuple[float, float, float]] = (0.485, 0.456, 0.406)
IMAGENET_STD: Final[tuple[float, float, float]] = (0.229, 0.224, 0.225)
