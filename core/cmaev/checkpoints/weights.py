"""Weights on their way into a model: already under our names, whatever they came from."""

from dataclasses import dataclass, field

from torch import Tensor

VIDEOMAE_LICENCE = (
    "these look like VideoMAE weights, or weights made from them: those published with the paper "
    "are licensed CC-BY-NC-4.0, so neither they nor a model that starts from them may be used "
    "commercially"
)
RECOMPUTED = "position tables are recomputed for the clip, never loaded"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors by our names, and what else the place they came from says about them."""

    origin: str
    tensors: dict[str, Tensor]
    dropped: dict[str, str] = field(default_factory=dict)
    """Names in the file that translate into none of ours -> why."""
    num_heads: int | None = None
    """Attention heads that the encoder was trained with, where the source tells."""
    decoder_heads: int | None = None
    """The same of the pixel decoder."""
    layer_norm_eps: float | None = None
    """Epsilon of the layer norms, where the source tells."""
    warnings: tuple[str, ...] = ()
