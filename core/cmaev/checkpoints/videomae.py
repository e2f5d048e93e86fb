"""VideoMAE's files, of both versions, in and out (method.md 1.5).

A pretraining file has our names: `encoder.*`, `encoder_to_decoder.*`, `mask_token`, `decoder.*`. A
finetuning file has the encoder at the top, beside `fc_norm.*` and `head.*`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cmaev.checkpoints.files import TensorFile
from cmaev.checkpoints.naming import OURS, is_position_table, split_qkv_bias, unwrap
from cmaev.checkpoints.weights import RECOMPUTED, VIDEOMAE_LICENCE, Weights
from cmaev.checkpoints.writing import new_file, vit_state
from cmaev.models import VideoClassifier
from cmaev_spec import __version__

TOP_LEVEL = ("patch_embed.", "blocks.", "norm.")
"""What a finetuning file has at the top and our classifier keeps under `encoder.`."""
_DECODER = ("encoder_to_decoder.", "mask_token", "decoder.")


def is_videomae(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of VideoMAE, with or without wrappers."""
    names = [name.removeprefix("backbone.").removeprefix("encoder.") for name in unwrap(tensors)]
    return "patch_embed.proj.weight" in names and any(n.startswith("blocks.0.") for n in names)


def from_videomae(file: TensorFile) -> Weights:
    """A pretraining or a finetuning file under our names."""
    state = {name.removeprefix("backbone."): t for name, t in unwrap(file.tensors).items()}
    pretraining = any(name.startswith("encoder.") for name in state)
    dropped = {name: RECOMPUTED for name in state if is_position_table(name)}
    tensors = {
        f"encoder.{name}" if not pretraining and name.startswith(TOP_LEVEL) else name: tensor
        for name, tensor in state.items()
        if name not in dropped
    }
    stage = "pretraining" if any(name.startswith(_DECODER) for name in state) else "finetuning"
    # Our own runs keep safetensors, and the files that we write say so.
    foreign = file.container != "safetensors" and OURS not in file.marks
    return Weights(
        origin=f"VideoMAE {stage} file" if foreign else f"{stage} weights of this project",
        tensors=split_qkv_bias(tensors),
        dropped=dropped,
        warnings=(VIDEOMAE_LICENCE,) if foreign else (),
    )


def export_videomae(model: nn.Module, path: str | Path) -> Path:
    """Writes a `.pth` that VideoMAE's own scripts read.

    Args:
        model: a ViT pretraining model, written as a pretraining file, or a classifier, written as a
            finetuning file.
        path: the file to write; it must not be there yet.

    Raises:
        BadInput: if the model is no ViT, or the file is there already.
    """
    state = vit_state(model)
    if isinstance(model, VideoClassifier):
        state = {name.removeprefix("encoder."): tensor for name, tensor in state.items()}
    with new_file(Path(path)) as temporary:
        torch.save({"model": state, OURS: __version__}, temporary)
    return Path(path)
