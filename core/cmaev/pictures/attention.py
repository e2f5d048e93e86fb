"""What the last block of an encoder attends to, drawn on the frames.

Shapes: B clips, T frames, H x W pixels, N = t*h*w tokens, D width, h heads, d = D / h.
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from torch import Tensor

from cmaev.models.attention import Attention
from cmaev.models.encoder import VideoEncoder
from cmaev.pictures.strips import Frames, save_strip

_OPACITY: Final = 0.6


@torch.no_grad()
def received_attention(encoder: VideoEncoder, video: Tensor) -> Tensor:
    """How much each token is looked at in the last block: mean over heads and over all tokens.

    An encoder without a class token has no single query that stands for its answer, so the mean
    over all queries is what its pooled feature is made of.

    Args:
        encoder: its last block is a transformer block.
        video: (B, C, T, H, W), normalised.

    Returns:
        (B, t, h, w), which sums to 1 for each clip.
    """
    last = [part for part in encoder.modules() if isinstance(part, Attention)][-1]
    inputs: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    was_training = encoder.training
    try:
        encoder.eval()(video)
    finally:
        hook.remove()
        encoder.train(was_training)
    return torch.stack([_of_one_clip(last, x) for x in inputs[0]]).reshape(-1, *encoder.grid)


def _of_one_clip(attention: Attention, x: Tensor) -> Tensor:
    """(N, D), the input of an attention -> (N,). Head by head: N x N is large."""
    q_weight, k_weight, _ = attention.qkv.weight.chunk(3)  # (D, D) each
    heads = attention.num_heads
    q = (x @ q_weight.T + attention.q_bias).reshape(len(x), heads, -1)  # (N, h, d)
    k = (x @ k_weight.T).reshape(len(x), heads, -1)  # (N, h, d)
    scale = q.shape[-1] ** -0.5
    weights = [(q[:, h] @ k[:, h].T * scale).softmax(dim=1).mean(dim=0) for h in range(heads)]
    return torch.stack(weights).mean(dim=0)  # (N,)


def attention_strip(encoder: VideoEncoder, video: Tensor, frames: Frames, path: Path) -> None:
    """Writes a PNG with two rows: the frames, and the attention of the last block over them.

    Args:
        encoder: see `received_attention`.
        video: (1, C, T, H, W), normalised.
        frames: (T, H, W, C), the same clip to be looked at.
        path: the PNG.
    """
    received = received_attention(encoder, video)[0].cpu().numpy()  # (t, h, w)
    save_strip([(frames, overlay(frames, received))], path)


def overlay(frames: Frames, received: npt.NDArray[np.floating]) -> Frames:
    """Frames (T, H, W, C) with (t, h, w) over them; dark where little, bright where most is."""
    least, most = received.min(), received.max()
    shade = (received - least) / max(most - least, np.finfo(np.float32).tiny)  # (t, h, w)
    for axis in range(3):
        shade = shade.repeat(frames.shape[axis] // shade.shape[axis], axis=axis)
    colors = 255 * colormaps["inferno"](shade)[..., :3]  # (T, H, W, C)
    grey = frames.mean(axis=-1, keepdims=True)  # (T, H, W, 1)
    mixed: Frames = np.round(_OPACITY * colors + (1 - _OPACITY) * grey).astype(np.uint8)
    return mixed
