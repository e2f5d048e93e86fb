"""Folders of `transformers`' VideoMAE, under our names (method.md 1.5).

Queries, keys and values are three layers there and one here. Their biases are `query.bias` and
`value.bias` in memory, `q_bias` and `v_bias` in files.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmaev.checkpoints.files import read_tensor_file
from cmaev.checkpoints.naming import OURS, is_position_table
from cmaev.checkpoints.weights import RECOMPUTED, VIDEOMAE_LICENCE, Weights
from cmaev.data.constants import IMAGENET_MEAN, IMAGENET_STD
from cmaev_spec.exits import BadInput
from cmaev_spec.weights import HF_CONFIG, HF_WEIGHTS

_OUTER = (
    ("encoder.patch_embed.proj.", "videomae.embeddings.patch_embeddings.projection."),
    ("encoder.blocks.", "videomae.encoder.layer."),
    ("encoder.norm.", "videomae.layernorm."),
    ("decoder.blocks.", "decoder.decoder_layers."),
    ("head.", "classifier."),
)
"""How a name starts, (here, there); all other names are the same."""
_INNER = (
    (".attn.proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
)
"""What stands in the middle of a block's name, (here, there)."""
_ATTENTION = ".attention.attention."
_PIXEL_HEAD = ("decoder.head.weight", "decoder.head.bias")
"""What predicts pixels, under the same names here and there."""
_BARE_MODEL = ("embeddings.", "encoder.layer.", "layernorm.")
"""How names start where the encoder was saved alone."""
_SLIP = (384, 16)
"""Width and heads in folders of ViT-S, whose converter wrote 16; it has 6 (method.md 1.5)."""


def is_huggingface(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of `transformers`' VideoMAE."""
    return any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in tensors)


def from_folder(folder: Path) -> Weights:
    """The weights of a folder that `save_pretrained` wrote, or of its like on the Hub.

    Raises:
        BadInput: if its model is no VideoMAE, differs in kind from ours, or has no weights.
    """
    config = _read_config(folder / HF_CONFIG)
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        tensors |= read_tensor_file(path).tensors
    return from_huggingface(tensors, config)


def from_huggingface(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Weights:
    """Tensors under `transformers`' names, under ours.

    Args:
        state: names and tensors; gradients will do as well.
        config: the folder's configuration; empty where there is none.

    Raises:
        BadInput: if an attention layer is not whole.
    """
    names = {
        f"videomae.{name}" if name.startswith(_BARE_MODEL) else name: tensor
        for name, tensor in state.items()
    }
    dropped = {name: RECOMPUTED for name in names if is_position_table(name)}
    if not config.get("use_mean_pooling", True):
        reason = "this head reads token 0, ours the mean of all tokens"
        dropped |= {name: reason for name in names if name.startswith("classifier.")}
    tensors: dict[str, Tensor] = {}
    attention: dict[str, dict[str, Tensor]] = {}
    for name, tensor in names.items():
        if name in dropped:
            continue
        block, found, part = name.partition(_ATTENTION)
        if found:
            part = {"q_bias": "query.bias", "v_bias": "value.bias"}.get(part, part)
            attention.setdefault(block, {})[part] = tensor
        else:
            tensors[_our_name(name)] = tensor
    has_bias = bool(config.get("qv_bias", config.get("qkv_bias", True)))
    for block, parts in attention.items():
        tensors |= _fuse(_our_name(f"{block}."), parts, has_bias=has_bias)
    if not config.get("norm_pix_loss", True):
        tensors |= _predicting_input(tensors)
    return Weights(
        origin="Hugging Face VideoMAE",
        tensors=tensors,
        dropped=dropped,
        num_heads=None if _slipped(config) else config.get("num_attention_heads"),
        decoder_heads=config.get("decoder_num_attention_heads"),
        layer_norm_eps=_number(config, "layer_norm_eps"),
        warnings=tuple(_warnings(config)),
    )


def _number(config: Mapping[str, Any], key: str) -> float | None:
    value = config.get(key)
    if value is not None and not isinstance(value, int | float):
        raise BadInput(f"{HF_CONFIG}: {key} is {value!r}; a number is needed")
    return value


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names, under `transformers`', in the layout of its files."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        block, found, part = name.partition(".attn.")
        if not found or part.startswith("proj."):
            result[_their_name(name)] = tensor
            continue
        prefix = _their_name(f"{block}.").removesuffix(".") + _ATTENTION
        if part == "qkv.weight":
            for layer, weight in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                result[f"{prefix}{layer}.weight"] = weight.contiguous()
        else:
            result[prefix + part] = tensor
    return result


def predicting_colours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head of a decoder of plain pixels, which predicts the encoder's input here.

    That of `transformers`, without `norm_pix_loss`, predicts colours of 0 to 1.
    """
    weight, bias = (state[name] for name in _PIXEL_HEAD)  # (P*C, D), (P*C,)
    mean, std = _by_output(weight)
    return dict(zip(_PIXEL_HEAD, (weight * std[:, None], bias * std + mean), strict=True))


def _predicting_input(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `predicting_colours`; nothing where there is no decoder."""
    if not all(name in state for name in _PIXEL_HEAD):
        return {}
    weight, bias = (state[name] for name in _PIXEL_HEAD)  # (P*C, D), (P*C,)
    mean, std = _by_output(weight)
    return dict(zip(_PIXEL_HEAD, (weight / std[:, None], (bias - mean) / std), strict=True))


def _by_output(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(P*C,) means and deviations of the input; channels are the fastest."""
    mean, std = (weight.new_tensor(values) for values in (IMAGENET_MEAN, IMAGENET_STD))  # (C,)
    pixels = len(weight) // len(mean)
    return mean.repeat(pixels), std.repeat(pixels)


def _fuse(block: str, parts: Mapping[str, Tensor], *, has_bias: bool) -> dict[str, Tensor]:
    layers = ("query.weight", "key.weight", "value.weight")
    missing = [layer for layer in layers if layer not in parts]
    if missing:
        raise BadInput(f"{block}attn has no {', '.join(missing)}: the file is not whole")
    weight = torch.cat([parts[layer] for layer in layers])  # (3*D, D)
    fused = {f"{block}attn.qkv.weight": weight}
    for ours, theirs in (("q_bias", "query.bias"), ("v_bias", "value.bias")):
        if theirs in parts:
            fused[f"{block}attn.{ours}"] = parts[theirs]  # (D,)
        elif not has_bias:  # or it would be missing, which is an error further on
            fused[f"{block}attn.{ours}"] = weight.new_zeros(weight.shape[1])  # (D,)
    return fused


def _our_name(name: str) -> str:
    for ours, theirs in _OUTER:
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    for ours, theirs in _INNER:
        name = name.replace(theirs, ours)
    return name


def _their_name(name: str) -> str:
    for ours, theirs in _OUTER:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    for ours, theirs in _INNER:
        name = name.replace(ours, theirs)
    return name


def _read_config(path: Path) -> dict[str, Any]:
    config = _read_json(path)
    if config.get("model_type") != "videomae":
        raise BadInput(
            f"{path} describes a model of type {config.get('model_type')!r}; videomae is needed"
        )
    if config.get("hidden_act", "gelu") != "gelu":
        raise BadInput(f"{path}: hidden_act is {config['hidden_act']!r}; our blocks have gelu")
    return config


def _weight_files(folder: Path) -> list[Path]:
    for name in HF_WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return [folder / shard for shard in _shards(index)]
    raise BadInput(f"{folder} has none of {', '.join(HF_WEIGHTS)}")


def _shards(index: Path) -> list[str]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadInput(f"{index} has no weight_map")
    shards = sorted(set(map(str, weight_map.values())))
    if any(Path(shard).name != shard for shard in shards):
        raise BadInput(f"{index} points out of its folder")
    return shards


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds no JSON object")
    return content


def _slipped(config: Mapping[str, Any]) -> bool:
    return (config.get("hidden_size"), config.get("num_attention_heads")) == _SLIP


def _warnings(config: Mapping[str, Any]) -> Iterator[str]:
    if OURS not in config:
        yield VIDEOMAE_LICENCE
    if _slipped(config):
        yield (
            "num_attention_heads is 16 in config.json, where VideoMAE's ViT-S was trained with 6, "
            "as ours has; weights that were finetuned with 16 will not work here"
        )
