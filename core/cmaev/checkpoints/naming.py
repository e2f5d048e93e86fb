"""Names and layouts that several formats share."""

import difflib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

OURS = "cmaev_version"
"""Key by which files and folders that we write for others say so."""
WRAPPERS = ("module.", "model.", "_orig_mod.")
"""Prefixes that data parallelism, wrappers and compilers put before every name."""

_SHOWN = 3


def unwrap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Takes away the prefixes of wrappers, however many there are, where all names have them."""
    names = dict(state)
    while names and (prefix := next((p for p in WRAPPERS if all_start(names, p)), None)):
        names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
    return names


def all_start(names: Iterable[str], prefix: str) -> bool:
    """Whether every name starts with `prefix`."""
    return all(name.startswith(prefix) for name in names)


def is_position_table(name: str) -> bool:
    """Whether a tensor is a table of positions, by the names that the peers give it."""
    return name.rpartition(".")[2] in {"pos_embed", "decoder_pos_embed", "position_embeddings"}


def split_qkv_bias(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replaces a bias of queries, keys and values by the two that our attention has.

    A bias of the keys adds the same to all scores of a query, which softmax takes away: leaving it
    out changes nothing.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".qkv.bias"):
            query, _, value = tensor.chunk(3)  # (D,) each
            attention = name.removesuffix("qkv.bias")
            result[f"{attention}q_bias"] = query
            result[f"{attention}v_bias"] = value
        else:
            result[name] = tensor
    return result


def nearest(theirs: Mapping[str, Tensor], ours: Mapping[str, torch.Size]) -> str:
    """Some names that differ, each with the closest one of ours and both shapes, for a message.

    Empty if all of theirs are among ours.
    """
    strange = [name for name, tensor in theirs.items() if ours.get(name) != tensor.shape]
    if not strange:
        return ""
    pairs = []
    for name in strange[:_SHOWN]:  # comparing names is slow, and a message has room for few
        for match in difflib.get_close_matches(name, ours, n=1, cutoff=0.3):
            there, here = shape(theirs[name].shape), shape(ours[match])
            pairs.append(f"{name} {there} there ~ {match} {here} here")
    return "; ".join(pairs) or f"none; it has names such as {', '.join(list(theirs)[:_SHOWN])}"


def shape(size: Iterable[int]) -> str:
    """A shape as people write it."""
    return f"({', '.join(map(str, size))})"
