"""Numeric precision of a run."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def resolve(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: unless chosen, bf16 on a GPU that computes in it, else fp32.

    GPUs before Ampere (V100, T4) only imitate bf16, slower than they compute in fp32.
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def autocast(
    dtype: torch.dtype, device: torch.device, *, cache: bool = True
) -> AbstractContextManager[None]:
    """Autocast to `dtype`; a no-op for fp32. A captured CUDA graph cannot use the `cache`."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, cache_enabled=cache)
