"""Compiling what trains: its blocks, or all of it. Weights stay where they are, by their names.

Shapes of training are static (a fixed count of visible tokens, whole batches only), so kernels are
made for them alone.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Literal, cast

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cmaev.models.attention import Block
from cmaev.models.conv_block import ConvBlock

Compile = Literal["none", "blocks", "step"]
Attention = Literal["auto", "flash", "cudnn", "efficient", "math"]

BACKENDS: Final[dict[str, SDPBackend]] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}

# One entry for each width, token count, mode and rate of stochastic depth that blocks come in.
_VARIANTS_OF_A_BLOCK: Final = 128


def compile_training(
    module: nn.Module,
    how: Compile,
    *,
    cuda_graphs: bool = False,
    whole: bool = True,
    backend: str = "inductor",
) -> nn.Module:
    """The module as it is trained; compilers do their work at the first call.

    Args:
        module: what holds the weights, before it is wrapped for several processes.
        how: `none`; `blocks`, which compiles a block of each kind; `step`, which makes one graph of
            forward and one of backward, and takes several times as long.
        cuda_graphs: replay the kernels of a compiled `step` by one call; only CUDA has them, and a
            warning says so elsewhere.
        whole: refuse to compile a step in several pieces; False where processes talk amid it.
        backend: of `torch.compile`.

    Returns:
        `module`, whose blocks were compiled in place, or what runs all of it.
    """
    if how == "none":
        return module
    # At its limit the compiler would go on in eager mode.
    torch._dynamo.config.recompile_limit = max(
        _VARIANTS_OF_A_BLOCK, torch._dynamo.config.recompile_limit
    )
    if how == "step":
        device = next(module.parameters()).device
        if cuda_graphs and device.type != "cuda":
            warnings.warn(f"run.cuda_graphs has no effect on {device.type}", stacklevel=2)
        mode = "reduce-overhead" if cuda_graphs else None
        step = torch.compile(module, dynamic=False, fullgraph=whole, mode=mode, backend=backend)
        return cast(nn.Module, step)
    for part in module.modules():
        if isinstance(part, Block | ConvBlock):
            part.compile(dynamic=False, fullgraph=True, backend=backend)
    return module


def begin_step(*, cuda_graphs: bool) -> None:
    """Lets replayed graphs write over what the step before has left in their memory."""
    if cuda_graphs:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def attention_backend(name: Attention, device: torch.device) -> AbstractContextManager[None]:
    """Limits attention to one implementation; `auto` leaves the choice to PyTorch.

    On a device without them, `cudnn` and `efficient` have no effect, and a warning says so.
    """
    if name == "auto":
        return nullcontext()
    if device.type != "cuda" and name in ("cudnn", "efficient"):
        warnings.warn(f"run.attention: {name} has no effect on {device.type}", stacklevel=2)
        return nullcontext()
    limited: AbstractContextManager[None] = sdpa_kernel(BACKENDS[name])
    return limited
