"""A model as a folder that `transformers` loads, with nothing of `transformers` needed to write it.

`transformers` fixes the epsilon of two layer norms, `fc_norm` and `decoder.norm`, at 1e-5, where
VideoMAE and this project have 1e-6. No configuration changes that: a feature of variance v comes
out smaller by a share of about 4.5e-6 / v.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from cmaev.checkpoints.huggingface import predicting_colours, to_huggingface
from cmaev.checkpoints.naming import OURS
from cmaev.checkpoints.writing import new_folder, vit_state
from cmaev.data.constants import IMAGENET_MEAN, IMAGENET_STD
from cmaev.models import CMAEV, VideoClassifier
from cmaev.models.attention import LAYER_NORM_EPS, Block
from cmaev.models.vit import ViTEncoder
from cmaev_spec import __version__
from cmaev_spec.exits import BadInput
from cmaev_spec.weights import HF_CONFIG, HF_WEIGHTS


def export_huggingface(model: nn.Module, folder: str | Path, *, labels: Sequence[str] = ()) -> Path:
    """Writes `config.json`, `preprocessor_config.json` and `model.safetensors`.

    Args:
        model: a ViT pretraining model, for `VideoMAEForPreTraining`, or a classifier, for
            `VideoMAEForVideoClassification`.
        folder: where to; it must be new or empty, and is whole once it is there.
        labels: names of the classes in order; `LABEL_0` and so on where they are left out.

    Raises:
        BadInput: if the model is no ViT, labels and classes differ in number, or the folder is
            taken.
    """
    state = vit_state(model)
    assert isinstance(model, CMAEV | VideoClassifier)
    assert isinstance(model.encoder, ViTEncoder)
    if isinstance(model, CMAEV) and not model.pixels.norm_pix:
        state |= predicting_colours(state)
    config = {**encoder_config(model.encoder), **_task_config(model, labels)}
    with new_folder(Path(folder)) as temporary:
        _write_json(temporary / HF_CONFIG, config)
        _write_json(temporary / "preprocessor_config.json", preprocessor_config(model.encoder))
        save_file(to_huggingface(state), temporary / HF_WEIGHTS[0], metadata={"format": "pt"})
    return Path(folder)


def encoder_config(encoder: ViTEncoder) -> dict[str, Any]:
    """The shape of an encoder in the terms of `VideoMAEConfig`."""
    slots, side, _ = encoder.grid
    block = encoder.blocks[0]
    assert isinstance(block, Block)
    return {
        "model_type": "videomae",
        "dtype": "float32",
        "image_size": side * encoder.patch_size,
        "patch_size": encoder.patch_size,
        "num_channels": 3,
        "num_frames": slots * encoder.tubelet_size,
        "tubelet_size": encoder.tubelet_size,
        "hidden_size": encoder.embed_dim,
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc1.out_features,
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
        "qkv_bias": True,
        OURS: __version__,
    }


def _task_config(model: CMAEV | VideoClassifier, labels: Sequence[str]) -> dict[str, Any]:
    if isinstance(model, VideoClassifier):
        classes = model.head.out_features if isinstance(model.head, nn.Linear) else 0
        if labels and len(labels) != classes:
            raise BadInput(f"labels: {len(labels)} names for {classes} classes")
        if len(set(labels)) != len(labels):
            raise BadInput("labels: a name stands for several classes; give each its own")
        names = labels or [f"LABEL_{number}" for number in range(classes)]
        return {
            "architectures": ["VideoMAEForVideoClassification"],
            "use_mean_pooling": True,
            "id2label": {str(number): name for number, name in enumerate(names)},
            "label2id": {name: number for number, name in enumerate(names)},
        }
    block = model.decoder.blocks[0]
    assert isinstance(block, Block)
    return {
        "architectures": ["VideoMAEForPreTraining"],
        "use_mean_pooling": False,  # the encoder ends with its layer norm
        "norm_pix_loss": model.pixels.norm_pix,
        "decoder_hidden_size": model.encoder_to_decoder.out_features,
        "decoder_num_hidden_layers": len(model.decoder.blocks),
        "decoder_num_attention_heads": block.attn.num_heads,
        "decoder_intermediate_size": block.mlp.fc1.out_features,
    }


def preprocessor_config(encoder: ViTEncoder) -> dict[str, Any]:
    """Resizing, cropping and normalisation as our evaluation does them."""
    size = encoder.grid[1] * encoder.patch_size
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "video_processor_type": "VideoMAEVideoProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
