"""AdamW and its parameter groups (method.md 4.1, 5).

Every group carries `lr_scale`; the loop sets `lr = schedule * lr_scale`.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cmaev.engine.sharding import gathered, part_like
from cmaev.models.encoder import VideoEncoder

if TYPE_CHECKING:
    from cmaev_spec.optim import OptimSpec

Moments = dict[str, dict[str, Tensor]]


def build_optimizer(
    module: nn.Module, spec: "OptimSpec", *, layer_scale: Callable[[str], float] | None = None
) -> torch.optim.AdamW:
    """AdamW as a job asks for it; see `adamw`."""
    return adamw(
        module,
        weight_decay=spec.weight_decay,
        betas=spec.betas,
        eps=spec.eps,
        layer_scale=layer_scale,
    )


def adamw(
    module: nn.Module,
    *,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    layer_scale: Callable[[str], float] | None = None,
    capturable: bool = False,
) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters of `module`, at a rate of 0 until `set_lr`.

    Args:
        module: the model.
        weight_decay: of matrices and kernels.
        betas: decay of the two moments.
        eps: added to the root of the second.
        layer_scale: factor on the learning rate of a parameter, by its name; None is 1 for all.
        capturable: count steps on the device, so that a CUDA graph can hold the optimiser.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if has_decay(name, parameter) else 0.0
            groups[decay, layer_scale(name) if layer_scale else 1.0].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "lr_scale": scale}
            for (decay, scale), parameters in groups.items()
        ],
        lr=0.0,
        betas=betas,
        eps=eps,
        fused=True,
        capturable=capturable,
    )


def has_decay(name: str, parameter: nn.Parameter) -> bool:
    """Weight decay applies to matrices and kernels, not to vectors or the mask token."""
    return parameter.ndim > 1 and not name.endswith("mask_token")


def layer_decay_scale(decay: float, encoder: VideoEncoder) -> Callable[[str], float]:
    """Layer-wise rates of a classifier: `decay ** (num_layers + 1 - layer)` (method.md 5).

    Args:
        decay: factor from a layer to the one before it.
        encoder: the classifier's; it numbers its own layers. Norm and head come after the last.
    """
    last = encoder.num_layers + 1

    def scale(name: str) -> float:
        inner = name.removeprefix("encoder.")
        layer = encoder.layer_id(inner) if inner != name else last
        return float(decay ** (last - layer))

    return scale


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the scheduled rate, times each group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def moments(optimizer: torch.optim.Optimizer, module: nn.Module, *, keep: bool = True) -> Moments:
    """What the optimiser remembers of each parameter, whole and by name: groups are the job's.

    Of a sharded module every process has to ask; see `gathered`.
    """
    return {
        name: gathered(optimizer.state[parameter], keep=keep)
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
    }


def load_moments(optimizer: torch.optim.Optimizer, module: nn.Module, saved: Moments) -> None:
    """Puts back what `moments` gave, where and as the parameters are."""
    for name, parameter in module.named_parameters():
        if name in saved:
            state = {key: part_like(value, parameter) for key, value in saved[name].items()}
            optimizer.state[parameter] = state
