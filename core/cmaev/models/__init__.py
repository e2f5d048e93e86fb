"""The models of CMAE-V, by name."""

from cmaev.models.architectures import list_models
from cmaev.models.classifier import VideoClassifier
from cmaev.models.cmaev import CMAEV
from cmaev.models.registry import (
    create_encoder,
    create_model,
    create_pretraining_model,
)

__all__ = [
    "CMAEV",
    "VideoClassifier",
    "create_encoder",
    "create_model",
    "create_pretraining_model",
    "list_models",
]
