"""Weights into a model: what fits is loaded by whole parts, the rest is accounted for."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cmaev.checkpoints.naming import nearest, shape
from cmaev.checkpoints.report import LoadReport
from cmaev.checkpoints.sources import open_source
from cmaev.checkpoints.weights import Weights
from cmaev.models import CMAEV
from cmaev.models.attention import LAYER_NORM_EPS, Attention
from cmaev_spec.exits import BadInput

logger = logging.getLogger(__name__)

DECODING = {"encoder_to_decoder", "mask_token", "decoder"}
"""First words of the names that make up the pixel decoder."""
SOMETIMES = {"norm", "stage1_output_decode", "stage2_output_decode"}
"""Layers of an encoder that pretraining has and finetuning has not."""
EMA_PAIRS = (("encoder", "target_encoder"), ("projector", "target_projector"))


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
        BadInput: if the source cannot be read, holds more than data, or does not fit the model.
    """
    weights = open_source(source)
    _check_heads(model, weights)
    fit = match(
        {name: tensor.shape for name, tensor in model.state_dict().items()},
        weights,
        load_head=load_head,
    )
    model.load_state_dict(fit.tensors, strict=False)
    copied = _refresh_target(model, set(map(part_of, fit.tensors)))
    for text in fit.warnings:
        logger.warning("%s: %s", source, text)
    followers = tuple(f"{target}." for _, target in copied)
    return LoadReport(
        source=str(source),
        origin=weights.origin,
        loaded=tuple(sorted(fit.tensors)),
        skipped=fit.skipped,
        initial=tuple(name for name in fit.initial if not name.startswith(followers)),
        copied=tuple(f"{online} to {target}" for online, target in copied),
        warnings=fit.warnings,
    )


@dataclass(frozen=True)
class Fit:
    """What of some weights goes into a model."""

    tensors: dict[str, Tensor]
    skipped: dict[str, str]
    initial: tuple[str, ...]
    warnings: tuple[str, ...]


def match(own: Mapping[str, torch.Size], weights: Weights, *, load_head: bool) -> Fit:
    """Compares weights with the shapes of a model, part by part.

    Raises:
        BadInput: if the encoder does not fit, with the names and shapes that are nearest.
    """
    theirs, ours = _by_part(weights.tensors), _by_part(own)
    fitting: dict[str, Tensor] = {}
    skipped = dict(weights.dropped)
    for part, names in theirs.items():
        reason = _misfit(part, names, ours.get(part, []), weights.tensors, own)
        if part == "head" and not load_head and ours.get(part):
            reason = "a head is taken over only on request, since classes differ between runs"
        if reason is None:
            fitting |= {name: weights.tensors[name] for name in names}
        elif part == "encoder":
            raise BadInput(
                f"{weights.origin} of another architecture than this model: {reason}; nearest: "
                f"{nearest(weights.tensors, own)}"
            )
        else:
            skipped |= dict.fromkeys(names, reason)
    if "encoder" not in theirs:
        raise BadInput(
            f"nothing in {weights.origin} fits this model; nearest: {nearest(weights.tensors, own)}"
        )
    return Fit(
        tensors=fitting,
        skipped=skipped,
        initial=tuple(sorted(own.keys() - fitting.keys())),
        warnings=(*weights.warnings, *_epsilon_warning(weights)),
    )


def part_of(name: str) -> str:
    """The part of a model that a tensor belongs to: the unit that is loaded whole or not at all."""
    first, _, rest = name.partition(".")
    if first in DECODING:
        return "decoder"
    second = rest.partition(".")[0]
    if first in {"encoder", "target_encoder"} and second in SOMETIMES:
        return f"{first}.{second}"
    return first


def _by_part(names: Mapping[str, object]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(part_of(name), []).append(name)
    return parts


def _misfit(
    part: str,
    theirs: list[str],
    ours: list[str],
    tensors: Mapping[str, Tensor],
    own: Mapping[str, torch.Size],
) -> str | None:
    """Why a part cannot be taken over; None if it can."""
    if not ours:
        return f"this model has no {part}"
    for name in theirs:
        if name in own and tensors[name].shape != own[name]:
            return f"{name} is {shape(tensors[name].shape)} there and {shape(own[name])} here"
    for name in theirs:
        if name not in own:
            return f"{name} is there and not here"
    for name in ours:
        if name not in tensors:
            return f"{name} is here and not there"
    return None


def _check_heads(model: nn.Module, weights: Weights) -> None:
    heads = {part.num_heads for part in model.modules() if isinstance(part, Attention)}
    if weights.num_heads is not None and weights.num_heads not in heads:
        raise BadInput(
            f"{weights.origin} with {weights.num_heads} attention heads; this model has "
            f"{' and '.join(map(str, sorted(heads)))}, and though all shapes agree its answers "
            "would be wrong"
        )


def _epsilon_warning(weights: Weights) -> tuple[str, ...]:
    eps = weights.layer_norm_eps
    if eps is None or eps == LAYER_NORM_EPS:
        return ()
    return (
        f"layer_norm_eps is {eps:g} in config.json and {LAYER_NORM_EPS:g} here, which VideoMAE "
        "was trained with; outputs can differ a little from those of `transformers`",
    )


def _refresh_target(model: nn.Module, loaded: set[str]) -> list[tuple[str, str]]:
    """Copies the online branch to the parts of the target that were not loaded themselves."""
    if not isinstance(model, CMAEV) or not model.contrastive:
        return []
    stale = [(online, target) for online, target in EMA_PAIRS if target not in loaded]
    for online, target in stale:
        getattr(model, target).load_state_dict(getattr(model, online).state_dict())
    return stale
