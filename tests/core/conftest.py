"""Peers to compare with: `transformers`' VideoMAE in our shapes, with random weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cmaev.models.architectures import architecture


@pytest.fixture(scope="session")
def videomae_config() -> Callable[..., Any]:
    """`VideoMAEConfig` for a registered name; settings of its own may be changed."""
    from transformers import VideoMAEConfig

    def build(name: str, **changes: Any) -> Any:
        ours = architecture(name)
        settings = {
            "image_size": ours.img_size,
            "patch_size": ours.patch_size,
            "num_frames": ours.num_frames,
            "hidden_size": ours.embed_dim,
            "num_hidden_layers": ours.depth,
            "num_attention_heads": ours.num_heads,
            "intermediate_size": 4 * ours.embed_dim,
            "decoder_hidden_size": ours.decoder_dim,
            "decoder_num_hidden_layers": ours.decoder_depth,
            "decoder_num_attention_heads": ours.decoder_heads,
            "decoder_intermediate_size": 4 * ours.decoder_dim,
            "layer_norm_eps": 1e-6,
        }
        return VideoMAEConfig(**{**settings, **changes})

    return build


@pytest.fixture(scope="session")
def with_random_weights() -> Callable[[nn.Module], nn.Module]:
    """Gives every parameter, biases and norms too, values that a mistake in names would show."""

    def randomise(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                is_scale = parameter.ndim == 1 and name.endswith("weight")
                parameter.copy_(1 + 0.1 * noise if is_scale else 0.03 * noise)
        return model.eval()

    return randomise
