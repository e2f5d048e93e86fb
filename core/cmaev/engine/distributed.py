"""Processes of one run: rank, world, device, and the few things they agree on."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from cmaev_spec.exits import BadInput
from cmaev_spec.resources import ResourceSpec

TIMEOUT = timedelta(minutes=10)
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers"  # before PyTorch 2.14
)


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes the run directory."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether any process raised its flag; all processes get the same answer."""
        if self.size == 1:
            return flag
        value = torch.tensor(int(flag))  # on the host, which would have to wait for the device
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise mean over processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values = values / self.size
        return values

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module as it is trained: DDP, or itself where it is sharded or in one process."""
        if self.size == 1 or isinstance(module, FSDPModule):
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Buffers are constants and running means that training never reads.
        buffers: dict[str, Any] = {_SYNC_BUFFERS: False}
        return DistributedDataParallel(
            module, device_ids=ids, gradient_as_bucket_view=True, **buffers
        )


def no_sync(module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Gradients are reduced in the last micro-batch of a step only.

    Sharded ones in every micro-batch: whole ones would take the memory that sharding saves.
    """
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def check_started(resources: ResourceSpec) -> None:
    """Checks that as many processes were started as the job is for.

    Raises:
        BadInput: if not; batches would be of another size than the job says.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != resources.world_size:
        raise BadInput(
            f"resources: nodes x processes_per_node is {resources.world_size}, and {size} "
            "processes were started; make them agree"
        )


def join(device: str) -> World:
    """Joins the processes that the launcher started (RANK, WORLD_SIZE, LOCAL_RANK).

    Raises:
        BadInput: if CUDA is asked for and there is none.
    """
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise BadInput("resources.device: cuda was asked for, but this machine has no usable GPU")
    use_cuda = cuda and device != "cpu"
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    where = torch.device("cuda", local) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(where)
    if size > 1:
        backend = "cpu:gloo,cuda:nccl" if use_cuda else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
    return World(rank=rank, size=size, device=where)


def leave() -> None:
    """Leaves the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
