"""Models by name; `architectures.py` holds the names."""

from cmaev.models.architectures import StageOptions, architecture
from cmaev.models.classifier import VideoClassifier
from cmaev.models.cmaev import CMAEV
from cmaev.models.encoder import VideoEncoder
from cmaev.models.settings import ContrastScale, OnlineFeature, TargetPrecision


def create_encoder(
    name: str,
    *,
    num_frames: int | None = None,
    img_size: int | None = None,
    drop_path_rate: float = 0.0,
    final_norm: bool = True,
    temporal_kernel: int | None = None,
    multiscale: bool | None = None,
    sparse_stages: bool | None = None,
) -> VideoEncoder:
    """The encoder behind a name, with random weights.

    Args:
        name: one of `list_models()`.
        num_frames: frames of a clip, even; None is the registered number.
        img_size: height and width in pixels, a multiple of the patch; None is the registered size.
        drop_path_rate: stochastic depth of the last block.
        final_norm: True for pretraining, False for a classifier, which has a norm of its own.
        temporal_kernel: slots that a depthwise convolution of the hybrid sees, 1 or 3; None is 1.
        multiscale: whether the hybrid adds its early stages to its tokens; None is `final_norm`.
        sparse_stages: whether the hybrid leaves hidden cells out of its early stages, which changes
            no result; None is True.

    Raises:
        ValueError: for an unknown name, a clip that does not fit the patches, or an option of the
            hybrid for a ViT.
    """
    shape = architecture(name)
    return shape.build(
        img_size=shape.img_size if img_size is None else img_size,
        num_frames=shape.num_frames if num_frames is None else num_frames,
        drop_path_rate=drop_path_rate,
        final_norm=final_norm,
        options=StageOptions(
            temporal_kernel=temporal_kernel, multiscale=multiscale, sparse_stages=sparse_stages
        ),
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
    temporal_kernel: int | None = None,
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
        temporal_kernel: slots that a depthwise convolution of the hybrid sees, 1 or 3; None is 1.

    Raises:
        ValueError: for an unknown name, a clip that does not fit the patches, or an option of the
            hybrid for a ViT.
    """
    encoder = create_encoder(
        name,
        num_frames=num_frames,
        img_size=img_size,
        drop_path_rate=drop_path_rate,
        final_norm=False,
        temporal_kernel=temporal_kernel,
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
    reconstruction_weight: float = 1.0,
    contrast_weight: float = 1.0,
    contrast_scale: ContrastScale = "two_tau",
    temperature: float = 0.07,
    target_final_norm: bool = True,
    online_feature: OnlineFeature = "visible_mean",
    symmetric: bool = False,
    norm_pix: bool = True,
    decoder_keep_ratio: float = 1.0,
    target_keep_ratio: float = 1.0,
    target_precision: TargetPrecision = "auto",
    temporal_kernel: int | None = None,
    multiscale: bool | None = None,
    sparse_stages: bool | None = None,
) -> CMAEV:
    """A CMAE-V pretraining model with random weights; defaults are method.md section 8.

    Args:
        name: one of `list_models()`.
        num_frames: frames of a clip, even; None is the registered number.
        img_size: height and width in pixels, a multiple of the patch; None is the registered size.
        drop_path_rate: stochastic depth of the online encoder's last block.
        decoder_depth: blocks of the pixel decoder; None is the registered depth.
        reconstruction_weight: factor on L_r; 0 contrasts only.
        contrast_weight: lambda_c; 0 leaves the target branch out.
        contrast_scale: `two_tau` multiplies the InfoNCE loss by 2 tau, `one` does not.
        temperature: tau.
        target_final_norm: whether the target's tokens pass its final norm.
        online_feature: `visible_mean`, or `feature_decoder` as in CMAE.
        symmetric: also contrast the masked target view with the whole online view.
        norm_pix: whether the decoder predicts standardised pixels of each tubelet, or plain ones.
        decoder_keep_ratio: share of the hidden tokens that are decoded (dual masking).
        target_keep_ratio: share of the tokens that the target encoder sees; 1 is the paper.
        target_precision: `fp8` takes most products of the target in FP8; see `fp8.check_fp8`.
        temporal_kernel: slots that a depthwise convolution of the hybrid sees, 1 or 3; None is 1.
        multiscale: whether the hybrid adds its early stages to its tokens; None is True.
        sparse_stages: whether the hybrid leaves hidden cells out of its early stages, which changes
            no result; None is True.

    Raises:
        ValueError: for an unknown name, a clip that does not fit the patches, a number out of
            range, or an option of the hybrid for a ViT.
    """
    shape = architecture(name)
    encoder = create_encoder(
        name,
        num_frames=num_frames,
        img_size=img_size,
        drop_path_rate=drop_path_rate,
        temporal_kernel=temporal_kernel,
        multiscale=multiscale,
        sparse_stages=sparse_stages,
    )
    return CMAEV(
        encoder,
        decoder_dim=shape.decoder_dim,
        decoder_depth=shape.decoder_depth if decoder_depth is None else decoder_depth,
        decoder_heads=shape.decoder_heads,
        reconstruction_weight=reconstruction_weight,
        contrast_weight=contrast_weight,
        contrast_scale=contrast_scale,
        temperature=temperature,
        target_final_norm=target_final_norm,
        online_feature=online_feature,
        symmetric=symmetric,
        norm_pix=norm_pix,
        decoder_keep_ratio=decoder_keep_ratio,
        target_keep_ratio=target_keep_ratio,
        target_precision=target_precision,
    )
