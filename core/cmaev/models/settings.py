"""What the settings of the objective are held to."""

import math
import warnings
from typing import Final, Literal, get_args

ContrastScale = Literal["two_tau", "one"]
OnlineFeature = Literal["visible_mean", "feature_decoder"]
TargetPrecision = Literal["auto", "fp8"]

CHOICES: Final = {
    "contrast_scale": get_args(ContrastScale),
    "online_feature": get_args(OnlineFeature),
    "target_precision": get_args(TargetPrecision),
}


def check_ranges(
    *,
    reconstruction_weight: float,
    contrast_weight: float,
    temperature: float,
    decoder_keep_ratio: float,
    target_keep_ratio: float,
) -> None:
    """Raises ValueError, naming the number that is out of range."""
    weights = reconstruction_weight, contrast_weight
    if not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
        raise ValueError(
            "reconstruction_weight and contrast_weight must not be negative or infinite, nor "
            "both be 0; got "
            f"{reconstruction_weight} and {contrast_weight}"
        )
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature ({temperature}) must be positive")
    ratios = {"decoder_keep_ratio": decoder_keep_ratio, "target_keep_ratio": target_keep_ratio}
    for name, ratio in ratios.items():
        if not 0 < ratio <= 1:
            raise ValueError(f"{name} ({ratio}) must be above 0 and at most 1")


def check_choices(**chosen: str) -> None:
    """Raises ValueError, listing the choices of the setting that has none of them."""
    for name, value in chosen.items():
        if value not in CHOICES[name]:
            raise ValueError(f"{name} ({value!r}) must be one of {', '.join(CHOICES[name])}")


def warn_of_idle(idle: bool, weight: str, **changed: bool) -> None:
    """Tells of settings that were changed while the weight that they act through is 0."""
    names = [name for name, is_changed in changed.items() if is_changed]
    if idle and names:
        warnings.warn(
            f"{', '.join(names)}: no effect while {weight} is 0",
            stacklevel=4,  # who asked create_pretraining_model for it
        )
