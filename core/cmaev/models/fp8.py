"""FP8 products for an encoder that needs no gradient: twice the rate of bf16 on Hopper and later.

Weights and activations are scaled row by row to the range of e4m3. A row of activations is what
the layer norm or the GELU before the product has at hand, so compilers quantise in their kernels,
without a pass of its own and without a value that the host would have to know.

The output projection of attention stays as it is: nothing precedes it that could quantise, and a
pass over its inputs takes what the faster product would save.

Shapes: D width, R rows, K inputs, O outputs.
"""

from typing import Final

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from cmaev.models.attention import Block

FP8: Final = torch.float8_e4m3fn
LARGEST: Final = torch.finfo(FP8).max
LOWEST_GELU: Final = 0.17
SMALLEST_AMAX: Final = 1e-12
"""Keeps rows of zeros finite."""


class FP8Mlp(nn.Module):
    """An MLP by `fp8_linear`, with the parameters of the one that it takes the place of.

    Args:
        mlp: gives its two layers away, under their names.
    """

    def __init__(self, mlp: Mlp) -> None:
        super().__init__()
        self.fc1, self.fc2 = mlp.fc1, mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        x = fp8_linear(x, self.fc1.weight, self.fc1.bias)  # (..., 4*D)
        # No GELU is larger than its argument or than that: a bound without a second look at erf.
        bound = x.amax(dim=-1, keepdim=True).clamp(min=LOWEST_GELU)  # (..., 1)
        return fp8_linear(F.gelu(x), self.fc2.weight, self.fc2.bias, amax=bound)  # (..., D)


def use_fp8(encoder: nn.Module) -> None:
    """Lets the transformer blocks of an encoder compute in FP8; parameters and names stay."""
    for block in encoder.modules():
        if isinstance(block, Block):
            block.attn.linear = fp8_linear
            block.add_module("mlp", FP8Mlp(block.mlp))


def check_fp8(device: torch.device) -> None:
    """Tries a small product on a device.

    Raises:
        ValueError: if it, or this PyTorch on it, has none in FP8. A CPU has none, either: PyTorch
            computes the same numbers there, slower than without.
    """
    needed = (
        "fp8 needs a GPU of CUDA capability 8.9 or later (Ada, Hopper, "
        f"Blackwell), and {device} has no such products in PyTorch {torch.__version__}; choose auto"
    )
    if device.type != "cuda":
        raise ValueError(needed)
    x = torch.ones(16, 16, device=device)
    try:
        fp8_linear(x, x, None)
    except RuntimeError as error:
        raise ValueError(needed) from error


def fp8_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, amax: Tensor | None = None
) -> Tensor:
    """A linear layer by an FP8 product with sums in fp32, rounded to bf16; no gradient.

    Args:
        x: (..., K).
        weight: (O, K).
        bias: (O,).
        amax: (..., 1) no less than the magnitudes of a row of `x`; None looks for the largest.

    Returns:
        (..., O) in the dtype of autocast, or else of `x`.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    rows, row_scale = quantise(x, largest(x) if amax is None else amax)  # (..., K), (..., 1)
    columns, column_scale = quantise(weight, largest(weight))  # (O, K), (O, 1)
    y = torch._scaled_mm(
        rows.flatten(0, -2),
        columns.t(),
        scale_a=row_scale.flatten(0, -2),
        scale_b=column_scale.t(),
        bias=None if bias is None else bias.to(torch.bfloat16),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )  # (R, O)
    return y.reshape(*x.shape[:-1], -1).to(dtype)  # (..., O)


def largest(x: Tensor) -> Tensor:
    """The largest magnitude of each row: (..., K) -> (..., 1)."""
    return x.abs().amax(dim=-1, keepdim=True)


def quantise(x: Tensor, amax: Tensor) -> tuple[Tensor, Tensor]:
    """Scales each row so that `amax` becomes the largest number of e4m3.

    Args:
        x: (..., K).
        amax: (..., 1).

    Returns:
        (..., K) FP8, and (..., 1) fp32: what to multiply it by.
    """
    factor = LARGEST / amax.float().clamp(min=SMALLEST_AMAX)  # (..., 1)
    return (x * factor).to(FP8), factor.reciprocal()
