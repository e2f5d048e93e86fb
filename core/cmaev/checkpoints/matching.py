"""What of some weights goes into a model: whole parts or nothing, and why not.

A part is what is loaded together or not at all: the encoder, its final norm, the decoder, the
projector, the head. Only the encoder must fit.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from cmaev.checkpoints.convmae import widen_in_time
from cmaev.checkpoints.naming import nearest, shape
from cmaev.checkpoints.weights import Weights
from cmaev.models import CMAEV
from cmaev.models.attention import LAYER_NORM_EPS, Attention
from cmaev_spec.exits import BadInput

DECODING = {"encoder_to_decoder", "mask_token", "decoder"}
"""First words of the names that make up the pixel decoder."""
SOMETIMES = {"norm", "stage1_output_decode", "stage2_output_decode"}
"""Layers of an encoder that pretraining has and finetuning has not."""
EMA_PAIRS = (("encoder", "target_encoder"), ("projector", "target_projector"))
HEAD_ON_REQUEST = "a head is taken over only on request, since classes differ between runs"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What is loaded, what is copied afterwards, and what is neither."""

    tensors: dict[str, Tensor]
    skipped: dict[str, str]
    """Names in the file -> why they are not loaded."""
    initial: tuple[str, ...]
    """Names of the model that keep their values."""
    copies: tuple[tuple[str, str], ...]
    """(online, target): parts of the EMA target that the weights lack."""
    warnings: tuple[str, ...]


def match(model: nn.Module, weights: Weights, *, load_head: bool) -> Fit:
    """Compares weights with a model, which may be on the meta device, part by part.

    Raises:
        BadInput: if the encoder does not fit, with the names and shapes that are nearest, or was
            trained with another number of heads.
    """
    _check_heads(model, weights)
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tensors = widen_in_time(weights.tensors, own)
    theirs, ours = _by_part(tensors), _by_part(own)
    if "encoder" not in theirs:
        raise BadInput(
            f"nothing in {weights.origin} fits this model; nearest: {nearest(tensors, own)}"
        )
    fitting: dict[str, Tensor] = {}
    skipped = dict(weights.dropped)
    for part, names in theirs.items():
        reason = _misfit(part, names, ours.get(part, []), tensors, own)
        if part == "decoder" and reason is None:
            reason = _other_heads("decoder", model, weights.decoder_heads)
        if part == "head" and part in ours and not load_head:
            reason = HEAD_ON_REQUEST
        if reason is None:
            fitting |= {name: tensors[name] for name in names}
        elif part == "encoder":
            near = nearest(_pick(tensors, names), _pick(own, ours[part]))
            raise BadInput(
                f"{weights.origin} of another architecture than this model: {reason}"
                + (f"; nearest: {near}" if near else "")
            )
        else:
            skipped |= dict.fromkeys(names, reason)
    copies = tuple(_copies(model, loaded={part_of(name) for name in fitting}))
    followers = tuple(f"{target}." for _, target in copies)
    return Fit(
        tensors=fitting,
        skipped=skipped,
        initial=tuple(
            n for n in sorted(own.keys() - fitting.keys()) if not n.startswith(followers)
        ),
        copies=copies,
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


Value = TypeVar("Value")


def _pick(state: Mapping[str, Value], names: Iterable[str]) -> dict[str, Value]:
    return {name: state[name] for name in names}


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
        if not _holds_floats(tensors[name]):
            return (
                f"{name} is {tensors[name].dtype}, {tensors[name].layout}; plain floats are needed"
            )
    for name in theirs:
        if name not in own:
            return f"{name} is there and not here"
    for name in ours:
        if name not in tensors:
            return f"{name} is here and not there"
    return None


def _check_heads(model: nn.Module, weights: Weights) -> None:
    reason = _other_heads("encoder", model, weights.num_heads)
    if reason is not None:
        raise BadInput(f"{weights.origin} with {reason}")


def _other_heads(part: str, model: nn.Module, theirs: int | None) -> str | None:
    """How the attention heads of a part differ; no shape tells."""
    heads = {
        layer.num_heads
        for name, layer in model.named_modules()
        if name.startswith(f"{part}.") and isinstance(layer, Attention)
    }
    if theirs is None or theirs in heads:
        return None
    return (
        f"{theirs} attention heads; this model has {' and '.join(map(str, sorted(heads)))}, and "
        "though all shapes agree its answers would be wrong"
    )


def _holds_floats(tensor: Tensor) -> bool:
    """Whether a tensor has values that can be copied as they are."""
    return tensor.is_floating_point() and tensor.layout == torch.strided


def _epsilon_warning(weights: Weights) -> tuple[str, ...]:
    eps = weights.layer_norm_eps
    if eps is None or eps == LAYER_NORM_EPS:
        return ()
    return (
        f"layer_norm_eps is {eps:g} in config.json and {LAYER_NORM_EPS:g} here, which VideoMAE "
        "was trained with; outputs can differ a little from those of `transformers`",
    )


def _copies(model: nn.Module, *, loaded: set[str]) -> Iterator[tuple[str, str]]:
    """The parts of the target that were not loaded themselves, and where they follow from."""
    if isinstance(model, CMAEV) and model.contrastive:
        for online, target in EMA_PAIRS:
            if target not in loaded:
                yield online, target
