"""Generated videos, runs on them that tests only look at, and peers to compare with."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from runs import job, run
from torch import nn

from cmaev.data.synth import synthesise
from cmaev.models.architectures import architecture


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    out = tmp_path_factory.mktemp("videos")
    synthesise(out, classes=2, per_class=8, val_per_class=3)
    return out


@pytest.fixture(scope="session")
def pretrained(videos, tmp_path_factory):
    code, folder = run(tmp_path_factory.mktemp("runs") / "pretrained", job("pretrain", videos))
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def finetuned(videos, pretrained, tmp_path_factory):
    spec = job("finetune", videos, init=str(pretrained.path))
    code, folder = run(tmp_path_factory.mktemp("runs") / "finetuned", spec)
    assert code == 0
    return folder


@pytest.fixture
def own_signals():
    """Runs that start in this process take over SIGTERM and SIGINT; pytest gets them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
