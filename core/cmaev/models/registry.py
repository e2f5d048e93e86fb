"""Every model by its name.

A new size is a line in `ARCHITECTURES`. The functions here are the only place where a name turns
into constructor arguments.
"""

import fnmatch
from dataclasses import dataclass

from cmaev.models.classifier import VideoClassifier
from cmaev.models.cmaev import CMAEV, ContrastScale, OnlineFeature
from cmaev.models.vit import ViTEncoder


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shape of an encoder and of the decoder that goes with it (method.md 1.1)."""

    embed_dim: int
    depth: int
    num_heads: int
    decoder_dim: int
    decoder_depth: int
    decoder_heads: int
    patch_size: int = 16
    img_size: int = 224
    num_frames: int = 16


ARCHITECTURES: dict[str, Architecture] = {}


def register(name: str, architecture: Architecture) -> None:
    """Adds a model.

    Raises:
        ValueError: if the name is taken.
    """
    if name in ARCHITECTURES:
        raise ValueError(f"model {name!r} is registered already")
    ARCHITECTURES[name] = architecture


def _shape(encoder: tuple[int, int, int], decoder: tuple[int, int, int]) -> Architecture:
    dim, depth, heads = encoder
    decoder_dim, decoder_depth, decoder_heads = decoder
    return Architecture(
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        decoder_dim=decoder_dim,
        decoder_depth=decoder_depth,
        decoder_heads=decoder_heads,
    )


register(
    "cmaev_vit_nano_patch8_32",
    Architecture(
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
register("cmaev_vit_tiny_patch16_224", _shape((192, 12, 3), (96, 4, 3)))
register("cmaev_vit_small_patch16_224", _shape((384, 12, 6), (192, 4, 3)))
register("cmaev_vit_base_patch16_224", _shape((768, 12, 12), (384, 4, 6)))
register("cmaev_vit_large_patch16_224", _shape((1024, 24, 16), (512, 12, 8)))
register("cmaev_vit_huge_patch16_224", _shape((1280, 32, 16), (640, 12, 8)))


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


def create_encoder(
    name: str,
    *,
    num_frames: int | None = None,
    img_size: int | None = None,
    drop_path_rate: float = 0.0,
    final_norm: bool = True,
) -> ViTEncoder:
    """The encoder behind a name, for another clip length or size if given."""
    shape = architecture(name)
    return ViTEncoder(
        img_size=img_size or shape.img_size,
        num_frames=num_frames or shape.num_frames,
        patch_size=shape.patch_size,
        embed_dim=shape.embed_dim,
        depth=shape.depth,
        num_heads=shape.num_heads,
        drop_path_rate=drop_path_rate,
        final_norm=final_norm,
    )


def create_model(
    name: str,
    *,
    num_classes: int = 400,
    num_frames: int | None = None,
    img_size: int | None = None,
    drop_path_rate: float = 0.0,
    head_drop_rate: float = 0.0,
    init_scale: float = 0.001,
) -> VideoClassifier:
    """A classifier with random weights.

    Args:
        name: one of `list_models()`.
        num_classes: width of the head; 0 returns pooled features.
        num_frames: frames of a clip, even; None is the registered number.
        img_size: height and width in pixels, a multiple of the patch; None is the registered size.
        drop_path_rate: stochastic depth of the last block.
        head_drop_rate: dropout before the head.
        init_scale: factor on the head's initial weights.

    Raises:
        ValueError: for an unknown name or a clip that does not fit the patches.
    """
    encoder = create_encoder(
        name,
        num_frames=num_frames,
        img_size=img_size,
        drop_path_rate=drop_path_rate,
        final_norm=False,
    )
    return VideoClassifier(
        encoder, num_classes=num_classes, head_drop_rate=head_drop_rate, init_scale=init_scale
    )


def create_pretraining_model(
    name: str,
    *,
    num_frames: int | None = None,
    img_size: int | None = None,
    drop_path_rate: float = 0.0,
    decoder_depth: int | None = None,
    contrast_weight: float = 1.0,
    contrast_scale: ContrastScale = "two_tau",
    temperature: float = 0.07,
    target_final_norm: bool = True,
    online_feature: OnlineFeature = "visible_mean",
    symmetric: bool = False,
    decoder_keep_ratio: float = 1.0,
    target_keep_ratio: float = 1.0,
) -> CMAEV:
    """A CMAE-V pretraining model with random weights; defaults are method.md section 8.

    Args:
        name: one of `list_models()`.
        num_frames: frames of a clip, even; None is the registered number.
        img_size: height and width in pixels, a multiple of the patch; None is the registered size.
        drop_path_rate: stochastic depth of the online encoder's last block.
        decoder_depth: blocks of the pixel decoder; None is the registered depth.
        contrast_weight: lambda_c; 0 leaves the target branch out.
        contrast_scale: `two_tau` multiplies the InfoNCE loss by 2 tau, `one` does not.
        temperature: tau.
        target_final_norm: whether the target's tokens pass its final norm.
        online_feature: `visible_mean`, or `feature_decoder` as in CMAE.
        symmetric: also contrast the masked target view with the whole online view.
        decoder_keep_ratio: share of the hidden tokens that are decoded (dual masking).
        target_keep_ratio: share of the tokens that the target encoder sees; 1 is the paper.

    Raises:
        ValueError: for an unknown name, a clip that does not fit the patches, or a number out of
            range.
    """
    shape = architecture(name)
    encoder = create_encoder(
        name, num_frames=num_frames, img_size=img_size, drop_path_rate=drop_path_rate
    )
    return CMAEV(
        encoder,
        decoder_dim=shape.decoder_dim,
        decoder_depth=decoder_depth or shape.decoder_depth,
        decoder_heads=shape.decoder_heads,
        contrast_weight=contrast_weight,
        contrast_scale=contrast_scale,
        temperature=temperature,
        target_final_norm=target_final_norm,
        online_feature=online_feature,
        symmetric=symmetric,
        decoder_keep_ratio=decoder_keep_ratio,
        target_keep_ratio=target_keep_ratio,
    )
