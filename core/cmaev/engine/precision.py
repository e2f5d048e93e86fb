"""Numeric precision of a run."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def resolve(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: bf16 on CUDA and fp32 on the CPU unless chosen."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def autocast(
    dtype: torch.dtype, device: torch.device, *, cache: bool = True
) -> AbstractContextManager[None]:
    """Autocast to `dtype`; a no-op for fp32. A captured CUDA graph cannot use the `cache`."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, cache_enabled=cache)
