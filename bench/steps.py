"""Whole pretraining steps to be timed, and their FLOPs."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from bench.timing import Work
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cmaev.engine.precision import autocast
from cmaev.masking import num_visible, tube_mask
from cmaev.models import CMAEV, create_pretraining_model
from cmaev.models.architectures import ViT, architecture

MASK_RATIO = 0.9
MOMENTUM = 0.996


def clips(name: str, batch: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two views, each (B, C, T, H, W)."""
    shape = architecture(name)
    size = (batch, 3, shape.num_frames, shape.img_size, shape.img_size)
    return torch.randn(size, device=device), torch.randn(size, device=device)


def tubes(model: CMAEV, batch: int) -> Tensor:
    """A mask of its own for every clip: (B, N) bool, True = hidden."""
    rng = np.random.default_rng(0)
    masks = [tube_mask(model.encoder.grid, MASK_RATIO, rng) for _ in range(batch)]
    return torch.from_numpy(np.stack(masks))


def our_step(
    model: CMAEV,
    views: tuple[Tensor, Tensor],
    mask: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
) -> Work:
    """Forward, backward and the update of the target; the optimiser is left out."""
    visible = num_visible(model.encoder.grid, MASK_RATIO)
    device = views[0].device

    def step() -> None:
        with autocast(dtype, device):
            loss: Tensor = model(*views, mask, visible)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)
        model.update_target(MOMENTUM)

    return step


def videomae_config(name: str, **options: Any) -> Any:
    """The settings of `transformers` that give the shape of our ViT `name`; `options` are more."""
    from transformers import VideoMAEConfig

    shape = architecture(name)
    assert isinstance(shape, ViT)
    return VideoMAEConfig(
        image_size=shape.img_size,
        patch_size=shape.patch_size,
        num_frames=shape.num_frames,
        hidden_size=shape.embed_dim,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.num_heads,
        intermediate_size=4 * shape.embed_dim,
        decoder_hidden_size=shape.decoder_dim,
        decoder_num_hidden_layers=shape.decoder_depth,
        decoder_num_attention_heads=shape.decoder_heads,
        decoder_intermediate_size=4 * shape.decoder_dim,
        **options,
    )


def peer_steps(name: str, online: Tensor, mask: Tensor) -> dict[str, Work]:
    """What `transformers` needs for the two halves of the method, with a ViT of the same shape.

    A VideoMAE pretraining step, forward and backward, and a forward of all tokens without gradient.
    """
    from transformers import VideoMAEForPreTraining

    peer = VideoMAEForPreTraining(videomae_config(name)).to(online.device)
    frames = online.transpose(1, 2).contiguous()  # (B, T, C, H, W)

    def pretrain() -> None:
        peer(frames, bool_masked_pos=mask).loss.backward()
        peer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def encode() -> None:
        peer.videomae(frames)

    return {"VideoMAE step": pretrain, "forward of all tokens": encode}


def gmac_per_clip(name: str, **model_arguments: Any) -> float:
    """Multiply-adds of a step in units of 10^9, counted without computing anything."""
    batch, meta = 2, torch.device("meta")
    with meta:
        model = create_pretraining_model(name, **model_arguments)
    model = model.to(meta)  # position tables are computed on the host
    step = our_step(model, clips(name, batch, device=meta), tubes(model, batch).to(meta))
    return count_flops(step) / 2 / batch / 1e9


def count_flops(step: Work) -> float:
    """FLOPs of matrix products and convolutions, two for each multiply-add."""
    # Fused attention is not counted on every device; the plain form has the same products.
    rules = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    counter = FlopCounterMode(display=False, custom_mapping=rules)
    with counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return float(counter.get_total_flops())


def _convolution_backward_flops(
    grad: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    *arguments: Any,
    out_shape: Any = None,
) -> int:
    """Each gradient costs what the forward pass does; PyTorch's own rule forgets the groups."""
    *_, output_mask = arguments
    return 2 * math.prod(grad) * math.prod(weight[1:]) * sum(output_mask[:2])
