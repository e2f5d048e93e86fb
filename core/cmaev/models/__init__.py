"""The models of CMAE-V, by name."""

from cmaev.models.architectures import list_models
from cmaev.models.classifier import VideoClassifier
from cmaev.models.cmaev import CMAEV
from cmaev.models.registry import (
    create_encoder,
    create_model,
    create_pretraining_model,
)
from cmaev.models.timm_entry import register_with_timm

for _name in list_models():
    register_with_timm(_name)

__all__ = [
    "CMAEV",
    "VideoClassifier",
    "create_encoder",
    "create_model",
    "create_pretraining_model",
    "list_models",
]
