"""Batch norm over the batch of all processes, on every device and with every backend.

PyTorch's own synchronised layer exists for CUDA alone; one form for all makes a run on several CPUs
equal a run on one.

Shapes: B features of this process, D width.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from cmaev.losses import distributed


class GlobalBatchNorm(nn.Module):
    """Batch norm of (B, D) features whose statistics are those of all processes' features.

    Parameters, buffers and arithmetic are those of `nn.BatchNorm1d`. Statistics are taken in fp32,
    or in fp64 where features are.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, *, eps: float = 1e-6, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D); B is the same on every process.

        Raises:
            ValueError: in training, if there is a single feature over all processes.
        """
        features = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.training:
            mean, var = self._batch_statistics(features)  # (D,), (D,)
        else:
            mean, var = self.running_mean, self.running_var
        y = (features - mean) * (var + self.eps).rsqrt() * self.weight + self.bias
        return y.to(x.dtype)

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        count = x.shape[0] * (dist.get_world_size() if distributed() else 1)
        if count == 1:
            raise ValueError(
                "batch norm needs at least 2 clips in the global batch; raise optim.batch_size, "
                "or set objective.contrast_weight to 0"
            )
        mean = _global_sum(x.sum(dim=0)) / count  # (D,)
        var = _global_sum((x - mean).square().sum(dim=0)) / count  # (D,)
        with torch.no_grad():
            for running, batch in (
                (self.running_mean, mean),
                (self.running_var, var * (count / (count - 1))),
            ):
                running.lerp_(batch.to(running.dtype), self.momentum)
        return mean, var


def _global_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all processes; the identity in a single one."""
    if not distributed():
        return x
    total: Tensor = _AllReduceSum.apply(x)
    return total


class _AllReduceSum(torch.autograd.Function):
    """A sum over processes, whose gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total
