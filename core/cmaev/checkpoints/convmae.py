"""ConvMAE's image files, inflated to video for the hybrid (method.md 2.4).

Each 2-D kernel becomes one over a single time slot. The first embedding joins the two frames of a
tubelet, so its kernel is repeated and halved: a clip that stands still gives what its picture gave.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from cmaev.checkpoints.files import TensorFile
from cmaev.checkpoints.naming import is_position_table, split_qkv_bias, unwrap
from cmaev.checkpoints.weights import RECOMPUTED, Weights

FIRST = "patch_embed1.proj.weight"
TUBELET = 2
"""Frames that the hybrid's first embedding joins."""
DECODER = ("decoder_", "mask_token")
ENCODER = ("patch_embed", "blocks", "norm.", "stage1_output_decode.", "stage2_output_decode.")


def is_convmae(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of the 2-D ConvMAE."""
    first = _names(tensors).get(FIRST)
    return first is not None and first.ndim == 4


def from_convmae(file: TensorFile) -> Weights:
    """A pretraining or a finetuning file of images under our names, inflated."""
    dropped: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in _names(file.tensors).items():
        if is_position_table(name):
            dropped[name] = RECOMPUTED
        elif name.startswith(DECODER):
            dropped[name] = "a decoder of pictures predicts no tubelets"
        else:
            prefix = "encoder." if name.startswith(ENCODER) else ""
            tensors[prefix + name] = _inflate(name, tensor)
    return Weights(origin="ConvMAE image file", tensors=split_qkv_bias(tensors), dropped=dropped)


def widen_in_time(
    tensors: Mapping[str, Tensor], own: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Puts depthwise kernels of one time slot in the middle of the longer ones of a model.

    The neighbours in time start at zero, so the model computes what it did without them.
    """
    result = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.ndim != 5 or name not in own or tensor.shape[2] != 1:  # (D, 1, t, 5, 5)
            continue
        before, odd = divmod(own[name][2] - 1, 2)
        if before > 0 and not odd and name.endswith(".attn.weight"):
            result[name] = F.pad(tensor, (0, 0, 0, 0, before, before))
    return result


def _names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("backbone."): t for name, t in unwrap(tensors).items()}


def _inflate(name: str, tensor: Tensor) -> Tensor:
    """(D, C, h, w) -> (D, C, t, h, w); other tensors are as they were."""
    if tensor.ndim != 4:
        return tensor
    kernel = tensor.unsqueeze(2)  # (D, C, 1, h, w)
    if name == FIRST:
        return kernel.repeat(1, 1, TUBELET, 1, 1) / TUBELET  # (D, C, 2, h, w)
    return kernel
