"""Which videos, which frames of them, and how they are augmented."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cmaev_spec.base import Spec


class ClipSpec(Spec):
    """One clip: `frames` frames, `stride` raw frames apart, `size` pixels square."""

    frames: int = Field(16, ge=2, le=128, multiple_of=2)
    stride: int = Field(4, ge=1, le=64)
    size: int = Field(224, ge=8, le=1024)
    sampling: Literal["dense", "linspace", "tsn"] = Field(
        "dense",
        description="dense: frames `stride` apart; linspace: the same window with its end, as "
        "VideoMAE finetunes; tsn: a frame of each of `frames` equal segments of the video, where "
        "`stride` has no effect (Something-Something)",
    )

    @property
    def span(self) -> int:
        """Raw frames a clip reaches over."""
        return self.frames * self.stride


class LoadingSpec(Spec):
    """How videos are read; nothing here changes a sample."""

    workers: int = Field(
        0,
        ge=0,
        le=64,
        description="loader processes per training process; 0 reads in the training process "
        "itself, where nothing can stop a decoder that hangs",
    )
    prefetch: int = Field(
        2, ge=1, le=64, description="batches that each loader process works ahead"
    )
    sample_seconds: float = Field(
        60.0,
        gt=0.0,
        description="a loader process that takes longer for one video is killed, the video is bad",
    )
    worker_memory_gib: float = Field(
        4.0, gt=0.0, description="memory that a loader process may take; shared memory aside"
    )


class DataSpec(LoadingSpec):
    """What every job that trains on videos needs."""

    index: str = Field(
        description="videos: a csv or text file, a folder of a folder per class, or shards; a path "
        "or a URL"
    )
    root: str | None = Field(
        None, description="folder or URL that relative paths of an index start from"
    )
    clip: ClipSpec = ClipSpec()
    max_bad_share: float = Field(
        0.01,
        ge=0.0,
        le=1.0,
        description="share of the videos that may be bad, and replaced, before the run stops; at "
        "least one may, unless this is 0",
    )
    cache: Literal["none", "memory", "device"] = Field(
        "none",
        description="memory: decode every video once and keep its frames, scaled down, as uint8; "
        "device: keep them on the training device, which also cuts the views out",
    )


class PretrainData(DataSpec):
    """Unlabelled clips, two views each (paper section 3; labels of the index are ignored)."""

    temporal_shift: int | None = Field(
        None,
        ge=0,
        description="p, the largest shift of the target view in raw frames; None: 2 x stride",
    )
    crop_scales: tuple[float, ...] = Field((1.0, 0.875, 0.75, 0.66), min_length=1)
    hflip: bool = False
    color_augment: bool = Field(True, description="jitter, grey and blur on the target view only")

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        if self.clip.sampling != "dense":
            raise ValueError(
                f"clip.sampling: {self.clip.sampling} has no time shift; pretraining needs dense"
            )
        return self

    @property
    def shift(self) -> int:
        """The largest temporal shift p, in raw frames."""
        return 2 * self.clip.stride if self.temporal_shift is None else self.temporal_shift


class RandAugmentSpec(Spec):
    """RandAugment, drawn once per clip; the defaults are rand-m7-n4-mstd0.5-inc1."""

    num_ops: int = Field(4, ge=1, le=15, description="changes drawn per clip")
    probability: float = Field(0.5, ge=0.0, le=1.0, description="of doing each of them")
    magnitude: float = Field(7.0, ge=0.0, le=10.0)
    magnitude_std: float = Field(0.5, ge=0.0)


class AugmentSpec(Spec):
    """What finetuning does to clips beyond crop and flip (method.md 5); off by default."""

    rand_augment: RandAugmentSpec | None = Field(
        None, description="{} is rand-m7-n4-mstd0.5-inc1; None: off"
    )
    erase_probability: float = Field(
        0.0, ge=0.0, le=1.0, description="of filling a box of a clip with noise"
    )
    mixup: float = Field(0.0, ge=0.0, description="alpha of Mixup; 0: off")
    cutmix: float = Field(
        0.0, ge=0.0, description="alpha of CutMix; 0: off; with Mixup, half of the batches each"
    )

    @property
    def mixes(self) -> bool:
        """Whether clips of a batch are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0


class FinetuneData(DataSpec):
    """Labelled clips."""

    val_index: str = Field(description="index of the videos that the result is measured on")
    labels: tuple[str, ...] | None = Field(
        None, min_length=2, description="label names in order; None: those of the index, sorted"
    )
    crop_area: tuple[float, float] = Field(
        (0.08, 1.0), description="random resized crop: least and largest share of the area"
    )
    hflip: bool = Field(False, description="refused where left and right are different labels")
    num_sample: int = Field(
        1,
        ge=1,
        le=16,
        description="clips cut from each decoded video; batch size and learning rate count videos",
    )
    augment: AugmentSpec = AugmentSpec()


class EvaluateData(LoadingSpec):
    """Labelled videos to measure a finetuned run on; clip geometry and labels are the run's own."""

    index: str
    root: str | None = None
    num_clips: int = Field(1, ge=1, le=100, description="views in time")
    num_crops: int = Field(1, ge=1, le=9, description="views along the longer side")
    batch_size: int = Field(32, ge=1)
    probabilities: bool = Field(
        False, description="list the probabilities of all classes in predictions.csv"
    )
