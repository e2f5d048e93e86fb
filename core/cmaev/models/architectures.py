"""The shapes behind model names: encoders of two families, each with its decoder.

A new size is a line at the end of this file.
"""

import fnmatch
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass

from cmaev.models.convvit import ConvViTEncoder
from cmaev.models.encoder import VideoEncoder
from cmaev.models.vit import ViTEncoder


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """Options of convolutional stages; None is their default."""

    temporal_kernel: int | None = None
    multiscale: bool | None = None
    sparse_stages: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """An encoder but for its clip, and the decoder that goes with it."""

    num_heads: int
    decoder_dim: int
    decoder_depth: int
    decoder_heads: int
    img_size: int = 224
    num_frames: int = 16

    @abstractmethod
    def build(
        self,
        *,
        img_size: int,
        num_frames: int,
        drop_path_rate: float,
        final_norm: bool,
        options: StageOptions,
    ) -> VideoEncoder:
        """The encoder, with random weights.

        Raises:
            ValueError: for a clip that does not fit, or options that the family does not have.
        """


@dataclass(frozen=True, kw_only=True)
class ViT(Architecture):
    """A vision transformer over tubelets (method.md 1.1)."""

    embed_dim: int
    depth: int
    patch_size: int = 16

    def build(
        self,
        *,
        img_size: int,
        num_frames: int,
        drop_path_rate: float,
        final_norm: bool,
        options: StageOptions,
    ) -> ViTEncoder:
        """The encoder; it takes no options."""
        for name, value in asdict(options).items():
            if value is not None:
                raise ValueError(
                    f"{name} has no effect on a ViT, which has no convolutional stages; "
                    "leave it out or choose a cmaev_convvit model"
                )
        return ViTEncoder(
            img_size=img_size,
            num_frames=num_frames,
            patch_size=self.patch_size,
            embed_dim=self.embed_dim,
            depth=self.depth,
            num_heads=self.num_heads,
            drop_path_rate=drop_path_rate,
            final_norm=final_norm,
        )


@dataclass(frozen=True, kw_only=True)
class ConvViT(Architecture):
    """The convolutional hybrid (method.md 2.4)."""

    embed_dims: tuple[int, int, int]
    depths: tuple[int, int, int] = (2, 2, 11)
    strides: tuple[int, int, int] = (4, 2, 2)

    def build(
        self,
        *,
        img_size: int,
        num_frames: int,
        drop_path_rate: float,
        final_norm: bool,
        options: StageOptions,
    ) -> ConvViTEncoder:
        """The encoder; stages are fused by default where a final norm follows: in pretraining."""
        multiscale = final_norm if options.multiscale is None else options.multiscale
        return ConvViTEncoder(
            img_size=img_size,
            num_frames=num_frames,
            strides=self.strides,
            embed_dims=self.embed_dims,
            depths=self.depths,
            num_heads=self.num_heads,
            temporal_kernel=1 if options.temporal_kernel is None else options.temporal_kernel,
            multiscale=multiscale,
            sparse=options.sparse_stages is not False,
            drop_path_rate=drop_path_rate,
            final_norm=final_norm,
        )


ARCHITECTURES: dict[str, Architecture] = {}


def register(name: str, architecture: Architecture) -> None:
    """Adds a model.

    Raises:
        ValueError: if the name is taken.
    """
    if name in ARCHITECTURES:
        raise ValueError(f"model {name!r} is registered already")
    ARCHITECTURES[name] = architecture


def list_models(pattern: str = "*") -> list[str]:
    """Names of all models that match a shell-style pattern, sorted."""
    return sorted(fnmatch.filter(ARCHITECTURES, pattern))


def architecture(name: str) -> Architecture:
    """The shape behind a name.

    Raises:
        ValueError: if there is no such model; the message lists those there are.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"no model {name!r}; there are: {', '.join(list_models())}")
    return ARCHITECTURES[name]


def _vit(size: str, encoder: tuple[int, int, int], decoder: tuple[int, int, int]) -> None:
    """Width, depth and heads of both parts."""
    register(
        f"cmaev_vit_{size}_patch16_224",
        ViT(
            embed_dim=encoder[0],
            depth=encoder[1],
            num_heads=encoder[2],
            decoder_dim=decoder[0],
            decoder_depth=decoder[1],
            decoder_heads=decoder[2],
        ),
    )


def _convvit(
    size: str, dims: tuple[int, int, int], heads: int, decoder: tuple[int, int, int]
) -> None:
    """Widths of the stages and heads; width, depth and heads of the decoder."""
    register(
        f"cmaev_convvit_{size}_patch16_224",
        ConvViT(
            embed_dims=dims,
            num_heads=heads,
            decoder_dim=decoder[0],
            decoder_depth=decoder[1],
            decoder_heads=decoder[2],
        ),
    )


register(
    "cmaev_vit_nano_patch8_32",
    ViT(
        embed_dim=128,
        depth=4,
        num_heads=4,
        decoder_dim=64,
        decoder_depth=2,
        decoder_heads=2,
        patch_size=8,
        img_size=32,
        num_frames=8,
    ),
)
_vit("tiny", (192, 12, 3), (96, 4, 3))
_vit("small", (384, 12, 6), (192, 4, 3))
_vit("base", (768, 12, 12), (384, 4, 6))
_vit("large", (1024, 24, 16), (512, 12, 8))
_vit("huge", (1280, 32, 16), (640, 12, 8))

register(
    "cmaev_convvit_nano_patch8_32",
    ConvViT(
        embed_dims=(32, 64, 128),
        depths=(1, 1, 3),
        strides=(2, 2, 2),
        num_heads=4,
        decoder_dim=64,
        decoder_depth=2,
        decoder_heads=2,
        img_size=32,
        num_frames=8,
    ),
)
_convvit("tiny", (64, 96, 192), 3, (96, 4, 3))
_convvit("small", (128, 192, 384), 6, (192, 4, 3))
_convvit("base", (256, 384, 768), 12, (384, 4, 6))
