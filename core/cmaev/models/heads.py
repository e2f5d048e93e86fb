"""Projection and prediction heads of the contrastive branch (method.md 3)."""

from torch import nn


def projection_head(in_dim: int, *, hidden_dim: int, out_dim: int = 256) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear without bias; the last layer has no norm."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim),
        nn.BatchNorm1d(hidden_dim, eps=1e-6),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim, bias=False),
    )
