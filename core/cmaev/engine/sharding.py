"""Weights, gradients and moments in parts, one on each process (FSDP2), for models filling a card.

Every block is gathered when it is needed, and forgotten again. Arithmetic is that of replicas:
weights are gathered in fp32, products run under autocast, gradients are averaged in fp32.
Checkpoints hold whole tensors, so they load on any number of processes, sharded or not.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from cmaev.models.attention import Block
from cmaev.models.conv_block import ConvBlock


def shard(module: nn.Module, *, device: torch.device, processes: int) -> None:
    """Leaves this process its part of each parameter, in place.

    Args:
        module: on the device, with the same values in every process.
        device: of this process.
        processes: all of the run.
    """
    mesh = init_device_mesh(device.type, (processes,))
    for part in [part for part in module.modules() if isinstance(part, Block | ConvBlock)]:
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Gives each process all weights for a while, so that it can call the module by itself.

    Every process has to enter, and may leave when it likes.
    """
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not module, recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; of a sharded one every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Of a whole tensor what this process keeps, where `parameter` is, and sharded like it."""
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(
            tensor.to(parameter.device),
            parameter.device_mesh,
            parameter.placements,
            src_data_rank=None,  # every process has read all of it
        )
    return tensor.to(parameter.device)


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors by name, on the host where they had to be gathered.

    Every process has to ask, and gets nothing but with `keep`: all of them have room for the parts
    alone.
    """
    result = {}
    for name, tensor in tensors.items():
        all_of_it = whole(tensor)
        if keep:
            result[name] = all_of_it.cpu() if isinstance(tensor, DTensor) else all_of_it
    return result


def load_model(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Puts whole parameters and buffers into a module, sharded or not."""
    here = module.state_dict()
    parts = {name: part_like(t, here[name]) if name in here else t for name, t in state.items()}
    module.load_state_dict(parts)
