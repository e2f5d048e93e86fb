"""What weights are, without a model to compare them with: origin, size, and the models they fit."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from cmaev.checkpoints.matching import match
from cmaev.checkpoints.sources import open_source
from cmaev.checkpoints.weights import Weights
from cmaev.models import create_model, create_pretraining_model, list_models
from cmaev.models.architectures import ConvViT, architecture

DEPTHWISE = "encoder.blocks1.0.attn.weight"
"""(C, 1, k, 5, 5), with k slots of time."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A first look at a source of weights."""

    source: str
    origin: str
    tensors: int
    parameters: int
    models: tuple[str, ...]
    """Registered models whose encoder the weights fill."""
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people, but for the warnings."""
        return [
            f"{self.source}: {self.origin}",
            f"{self.tensors} tensors of {self.parameters:,} values",
            f"fits {', '.join(self.models) or 'no registered model'}",
        ]

    def to_json(self) -> str:
        """For programs."""
        return json.dumps(asdict(self), indent=1)


def overview(source: str | Path) -> Overview:
    """Reads weights and tries them on every model, none of which takes up memory.

    Raises:
        BadInput: if the source cannot be read, or holds more than data.
    """
    weights = open_source(source)
    return Overview(
        source=str(source),
        origin=weights.origin,
        tensors=len(weights.tensors),
        parameters=sum(tensor.numel() for tensor in weights.tensors.values()),
        models=tuple(name for name in list_models() if _fits(name, weights)),
        warnings=weights.warnings,
    )


def without_memory(name: str, weights: Weights, *, pretraining: bool = False) -> nn.Module:
    """A registered model on the meta device, its depthwise kernels as deep in time as the weights'.

    Raises:
        ValueError: if there is no model of that name.
    """
    create = create_pretraining_model if pretraining else create_model
    kernel = weights.tensors.get(DEPTHWISE)
    staged = kernel is not None and kernel.ndim == 5 and isinstance(architecture(name), ConvViT)
    with torch.device("meta"):
        if kernel is None or not staged:
            return create(name)
        return create(name, temporal_kernel=kernel.shape[2])


def _fits(name: str, weights: Weights) -> bool:
    try:
        match(without_memory(name, weights), weights, load_head=False)
    except ValueError:
        return False
    return True
