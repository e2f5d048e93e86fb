"""What is trained: the encoder, the pretraining objective, the classifier."""

import math
from typing import Literal

from pydantic import Field

from cmaev_spec.base import Spec


class EncoderSpec(Spec):
    """The encoder, by its registered name. Frames and size follow from the clip (data.clip)."""

    name: str = Field("cmaev_vit_nano_patch8_32", description="a name listed by list_models()")
    drop_path_rate: float = Field(0.0, ge=0.0, lt=1.0)
    temporal_kernel: Literal[1, 3] | None = Field(
        None, description="convvit only: time slots of its convolutions; None: 1"
    )
    grad_checkpointing: bool = Field(
        False, description="keep block inputs only and compute twice: less memory, same results"
    )


class PretrainEncoderSpec(EncoderSpec):
    """An encoder that sees the visible tokens of a clip."""

    multiscale: bool | None = Field(
        None, description="convvit only: add the early stages to the tokens; None: true"
    )
    sparse_stages: bool | None = Field(
        None, description="convvit only: leave out hidden cells, same results; None: true"
    )


class ClassifierSpec(EncoderSpec):
    """An encoder with mean pooling and a linear head."""

    head_drop_rate: float = Field(0.0, ge=0.0, lt=1.0)
    init_scale: float = Field(0.001, gt=0.0, description="factor on the head's initial weights")


class ObjectiveSpec(Spec):
    """The CMAE-V objective L = L_r + lambda_c L_c; the defaults are method.md section 8."""

    mask_ratio: float = Field(0.9, gt=0.0, lt=1.0, description="share of tubes hidden")
    decoder_depth: int | None = Field(None, ge=1, description="None: the registered depth")
    reconstruction_weight: float = Field(
        1.0, ge=0.0, description="factor on L_r; 0 is contrast only"
    )
    contrast_weight: float = Field(1.0, ge=0.0, description="lambda_c; 0 is reconstruction only")
    contrast_scale: Literal["two_tau", "one"] = "two_tau"
    temperature: float = Field(0.07, gt=0.0, description="tau of InfoNCE")
    momentum: float = Field(0.996, ge=0.0, le=1.0, description="mu of the EMA target")
    momentum_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine: from momentum in the first step to 1 in the last"
    )
    target_final_norm: bool = True
    online_feature: Literal["visible_mean", "feature_decoder"] = Field(
        "visible_mean", description="what is contrasted; feature_decoder as in CMAE on images"
    )
    symmetric: bool = Field(
        False, description="also contrast the masked target view with the whole online view"
    )
    norm_pix: bool = Field(
        True,
        description="predict pixels standardised in each tubelet; false: as the encoder sees them",
    )
    decoder_keep_ratio: float = Field(
        1.0, gt=0.0, le=1.0, description="share of hidden tokens that are decoded (dual masking)"
    )
    target_keep_ratio: float = Field(
        1.0, gt=0.0, le=1.0, description="share of tokens that the target sees; 1 is the paper"
    )
    target_precision: Literal["auto", "fp8"] = Field(
        "auto",
        description="fp8: most of the target's products in FP8, on GPUs of capability 8.9 or later",
    )

    def momentum_at(self, step: int, *, total_steps: int) -> float:
        """The momentum mu of the target's update after optimiser step `step` (from 0)."""
        if self.momentum_schedule == "constant":
            return self.momentum
        progress = step / max(1, total_steps - 1)
        return 1.0 - (1.0 - self.momentum) * 0.5 * (1.0 + math.cos(math.pi * progress))
