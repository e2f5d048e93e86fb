"""Projection and prediction heads of the contrastive branch (method.md 3)."""

from torch import nn

from cmaev.models.batchnorm import GlobalBatchNorm


def projection_head(in_dim: int, *, hidden_dim: int, out_dim: int = 256) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear without bias; the last layer has no norm."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim),
        GlobalBatchNorm(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim, bias=False),
    )
