"""Probes: what the features of a frozen encoder tell about the labels."""

from typing import Literal

from pydantic import Field

from cmaev_spec.base import Spec
from cmaev_spec.data import ClipSpec, LoadingSpec


class FrozenEncoderSpec(Spec):
    """The encoder that is probed, where its weights do not say which it is."""

    name: str = Field("cmaev_vit_nano_patch8_32", description="a name listed by list_models()")
    temporal_kernel: Literal[1, 3] | None = Field(None, description="convvit only; None: 1")
    multiscale: bool | None = Field(None, description="convvit only; None: true")


class ProbeData(LoadingSpec):
    """Labelled videos: probes are trained on one index and measured on another."""

    index: str = Field(description="videos that the probes are trained on")
    val_index: str = Field(description="videos that they are measured on; nothing is chosen there")
    root: str | None = Field(
        None, description="folder or URL that relative paths of an index start from"
    )
    labels: tuple[str, ...] | None = Field(
        None, min_length=2, description="label names in order; None: those of the index, sorted"
    )
    clip: ClipSpec | None = Field(None, description="None: the clips that the run trained on")
    batch_size: int = Field(32, ge=1, description="videos that a process encodes at once")
    memory_gib: float = Field(
        8.0, gt=0.0, description="what a process may keep of features; asking for more is refused"
    )


class KnnSpec(Spec):
    """Votes of the nearest training videos, by cosine of mean-pooled tokens."""

    neighbours: int = Field(20, ge=1, description="at most the training videos there are")
    temperature: float = Field(0.07, gt=0.0, description="a vote weighs exp(cosine / temperature)")


class LinearSpec(Spec):
    """Logistic regression on averages of tokens, standardised by the training videos."""

    pool: tuple[int, int, int] | None = Field(
        None,
        description="(t, h, w): average neighbours down to so many tokens and keep these apart, "
        "in time and place; None: the mean of all",
    )

    l2: tuple[float, ...] = Field(
        (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
        min_length=1,
        description="penalties to choose from, on a part of the training videos; one: taken as is",
    )
    held_out: float = Field(
        0.2, gt=0.0, lt=1.0, description="share of each class's training videos to choose on"
    )


class AttentiveSpec(Spec):
    """A learned query that attends to the tokens, which keep time and place; a linear head."""

    num_heads: int = Field(8, ge=1, description="must divide the width of the encoder")
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(1e-3, gt=0.0, description="falls to zero along a cosine")
    weight_decay: float = Field(0.05, ge=0.0)
    pool: tuple[int, int, int] | None = Field(
        None,
        description="(t, h, w): average neighbours down to so many tokens, which takes less "
        "memory; None: every token",
    )
