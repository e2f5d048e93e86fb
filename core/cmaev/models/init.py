"""Initial weights: VideoMAE's rules for pretraining and for finetuning (method.md 1.1, 1.4)."""

from timm.layers import trunc_normal_
from torch import nn


def init_pretraining_(module: nn.Module) -> None:
    """Xavier-uniform linear layers, zero biases; convolutions keep PyTorch's default."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def init_finetuning_(module: nn.Module) -> None:
    """Truncated-normal linear layers of std .02, zero biases; convolutions keep the default."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
