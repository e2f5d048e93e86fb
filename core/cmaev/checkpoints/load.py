"""Weights of any origin into a model, with an account of every tensor."""

import logging
from pathlib import Path

from torch import nn

from cmaev.checkpoints.matching import Fit, match
from cmaev.checkpoints.report import LoadReport
from cmaev.checkpoints.sources import open_source
from cmaev.checkpoints.weights import Weights
from cmaev_spec.exits import BadInput

logger = logging.getLogger(__name__)


def load_pretrained(model: nn.Module, source: str | Path, *, load_head: bool = False) -> LoadReport:
    """Loads weights of any origin into a model.

    A part of the model (encoder, decoder, projector, norm, head) is loaded as a whole or not at
    all, and the encoder must fit. Position tables are recomputed, so the clip may have another
    length or size. In a pretraining model whose source has no EMA target, the target becomes a copy
    of the online branch. Warnings are logged and stand in the report.

    Args:
        model: a pretraining model or a classifier.
        source: a run directory or `job:<id>`; a VideoMAE or ConvMAE `.pth`; a `.safetensors` file;
            a Hugging Face VideoMAE folder.
        load_head: whether to take over the classification head, if its classes are as many.

    Raises:
        BadInput: if the source cannot be read, holds more than data or values that are not finite,
            or does not fit the model.
    """
    weights = open_source(source)
    fit = match(model, weights, load_head=load_head)
    for name, tensor in fit.tensors.items():
        if not tensor.isfinite().all():
            raise BadInput(f"{source}: {name} has values that are not finite; the weights diverged")
    model.load_state_dict(fit.tensors, strict=False)
    for online, target in fit.copies:
        getattr(model, target).load_state_dict(getattr(model, online).state_dict())
    for text in fit.warnings:
        logger.warning("%s: %s", source, text)
    return _report(source, weights, fit)


def preview(model: nn.Module, source: str | Path, *, load_head: bool = False) -> LoadReport:
    """What `load_pretrained` would do; the model stays as it is and may be on the meta device.

    Raises:
        BadInput: as `load_pretrained` does.
    """
    weights = open_source(source)
    return _report(source, weights, match(model, weights, load_head=load_head))


def _report(source: str | Path, weights: Weights, fit: Fit) -> LoadReport:
    return LoadReport(
        source=str(source),
        origin=weights.origin,
        loaded=tuple(sorted(fit.tensors)),
        skipped=fit.skipped,
        initial=fit.initial,
        copied=tuple(f"{online} to {target}" for online, target in fit.copies),
        warnings=fit.warnings,
    )
