"""CMAE-V: a masked autoencoder and an InfoNCE loss against an EMA target (paper section 3).

Shapes: B clips, C channels, N tokens, V visible, M hidden, D width of the encoder, d width of the
decoder, P pixels of a tubelet. Masks are (B, N) bool, True = hidden.
"""

import copy
from typing import Self

import torch
from torch import Tensor, nn

from cmaev.losses import Contrast, feature_std, info_nce, mean_contrast, reconstruction_loss
from cmaev.models.decoder import FeatureDecoder, PixelDecoder, init_mask_token_, with_hidden_tokens
from cmaev.models.ema import move_average
from cmaev.models.encoder import VideoEncoder
from cmaev.models.fp8 import use_fp8
from cmaev.models.heads import projection_head
from cmaev.models.init import init_pretraining_
from cmaev.models.pixels import PixelTarget
from cmaev.models.settings import (
    ContrastScale,
    OnlineFeature,
    TargetPrecision,
    check_choices,
    check_ranges,
    warn_of_idle,
)
from cmaev.models.tokens import random_subset, split_mask
from cmaev.models.tubelet import sincos_table


class CMAEV(nn.Module):
    """The pretraining model.

    The online branch sees the visible tubes of one view; the target branch, an exponential moving
    average of encoder and projector, sees all of a view shifted in time. With `contrast_weight=0`
    there is no target branch, and the model is a plain masked autoencoder.

    Args:
        encoder: the online encoder, with a final norm.
        decoder_dim: width of the pixel decoder, and of the feature decoder if there is one.
        decoder_depth: blocks of the pixel decoder.
        decoder_heads: attention heads of the decoders.
        reconstruction_weight: factor on L_r; 0 contrasts only, and still computes L_r to show it.
        contrast_weight: lambda_c; 0 leaves the target branch out.
        contrast_scale: `two_tau` multiplies the InfoNCE loss by 2 tau, `one` does not.
        temperature: tau.
        target_final_norm: whether the target's tokens pass its final norm.
        online_feature: what is projected: the mean of the visible tokens, or the mean over a
            feature decoder's completion of them, as in CMAE.
        symmetric: also contrast the masked target view with the whole online view.
        norm_pix: see `PixelTarget`.
        decoder_keep_ratio: share of the hidden tokens that are decoded and enter the loss.
        target_keep_ratio: share of the tokens that the target encoder sees; 1 is the paper.
        target_precision: `auto`, or `fp8` for most products of the target (`fp8.py`).
        projection_dim: width of projections.
        feature_decoder_depth: blocks of the feature decoder.

    Raises:
        ValueError: for a number out of range, or a choice that there is not.
    """

    decoder_pos_embed: Tensor

    def __init__(
        self,
        encoder: VideoEncoder,
        *,
        decoder_dim: int,
        decoder_depth: int,
        decoder_heads: int,
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
        projection_dim: int = 256,
        feature_decoder_depth: int = 2,
    ) -> None:
        super().__init__()
        check_ranges(
            reconstruction_weight=reconstruction_weight,
            contrast_weight=contrast_weight,
            temperature=temperature,
            decoder_keep_ratio=decoder_keep_ratio,
            target_keep_ratio=target_keep_ratio,
        )
        check_choices(
            contrast_scale=contrast_scale,
            online_feature=online_feature,
            target_precision=target_precision,
        )
        if decoder_depth < 1:
            raise ValueError(f"decoder_depth ({decoder_depth}) must be at least 1")
        warn_of_idle(
            contrast_weight == 0,
            "contrast_weight",
            symmetric=symmetric,
            target_keep_ratio=target_keep_ratio != 1,
            target_precision=target_precision != "auto",
            online_feature=online_feature != "visible_mean",
            contrast_scale=contrast_scale != "two_tau",
            target_final_norm=not target_final_norm,
        )
        warn_of_idle(
            reconstruction_weight == 0,
            "reconstruction_weight",
            norm_pix=not norm_pix,
            decoder_keep_ratio=decoder_keep_ratio != 1,
        )
        self.reconstruction_weight = reconstruction_weight
        self.contrast_weight = contrast_weight
        self.contrast_scale = 2 * temperature if contrast_scale == "two_tau" else 1.0
        self.temperature = temperature
        self.target_final_norm = target_final_norm
        self.symmetric = symmetric
        self.decoder_keep_ratio = decoder_keep_ratio
        self.target_keep_ratio = target_keep_ratio

        self.encoder = encoder
        self.pixels = PixelTarget(
            tubelet_size=encoder.tubelet_size, patch_size=encoder.patch_size, norm_pix=norm_pix
        )
        self._build_pixel_decoder(decoder_dim, depth=decoder_depth, num_heads=decoder_heads)
        self.feature_decoder: FeatureDecoder | None = None
        if self.contrastive:
            self._build_contrast(projection_dim)
            if target_precision == "fp8":
                use_fp8(self.target_encoder)
            if online_feature == "feature_decoder":
                self.feature_decoder = FeatureDecoder(
                    encoder.embed_dim,
                    num_tokens=encoder.num_tokens,
                    embed_dim=decoder_dim,
                    depth=feature_decoder_depth,
                    num_heads=decoder_heads,
                )

    def _build_pixel_decoder(self, dim: int, *, depth: int, num_heads: int) -> None:
        encoder = self.encoder
        self.encoder_to_decoder = nn.Linear(encoder.embed_dim, dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        num_outputs = 3 * encoder.tubelet_size * encoder.patch_size**2
        self.decoder = PixelDecoder(
            embed_dim=dim, depth=depth, num_heads=num_heads, num_outputs=num_outputs
        )
        init_pretraining_(encoder)
        init_pretraining_(self.decoder)
        init_mask_token_(self.mask_token)
        table = sincos_table(encoder.num_tokens, dim)
        self.register_buffer("decoder_pos_embed", table, persistent=False)

    def _build_contrast(self, projection_dim: int) -> None:
        """The heads, and the target branch as a copy of encoder and projector."""
        dim, hidden = self.encoder.embed_dim, 2 * self.encoder.embed_dim
        self.projector = projection_head(dim, hidden_dim=hidden, out_dim=projection_dim)
        self.predictor = projection_head(projection_dim, hidden_dim=hidden, out_dim=projection_dim)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.target_encoder.eval()

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all but the target encoder, which is never stochastic."""
        super().train(mode)
        if self.contrastive:
            self.target_encoder.eval()
        return self

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Trades time for memory: the blocks of encoder and decoders run again in backward."""
        for part in (self.encoder, self.decoder, self.feature_decoder):
            if part is not None:
                part.set_grad_checkpointing(enabled)

    @property
    def contrastive(self) -> bool:
        """Whether there is a target branch."""
        return self.contrast_weight > 0

    def forward(
        self, online: Tensor, target: Tensor, mask: Tensor, num_visible: int | None = None
    ) -> dict[str, Tensor]:
        """The whole objective, L = L_r + lambda_c L_c (equation 9), each with its weight.

        Args:
            online: (B, C, T, H, W), normalised.
            target: (B, C, T, H, W), normalised: later by the shift, colour-augmented.
            mask: (B, N) bool, True = hidden, with the same count in every row.
            num_visible: V; None reads it from the mask, which stops the host and cannot be
                compiled.

        Returns:
            `loss` and its parts, each a () tensor; all but `loss` are detached.

        Raises:
            ValueError: if clip, mask and model do not fit each other.
        """
        self._check_batch(online, target, mask)
        visible, hidden = split_mask(mask, num_visible)  # (B, V), (B, M)
        # The target comes first, before the online branch fills the memory for its backward pass.
        y_t = self.target_feature(target) if self.contrastive else None  # (B, D)
        z_s = self.encoder(online, visible)  # (B, V, D)

        loss_r = self.reconstruction(z_s, online, visible, hidden)
        if y_t is None:
            loss = self.reconstruction_weight * loss_r
            return {"loss": loss, "loss_reconstruction": loss_r.detach()}

        y_s = self.online_feature(z_s, visible, hidden)  # (B, D)
        contrast = self.contrast(y_s, y_t)
        if self.symmetric:
            swapped = self.online_feature(self.encoder(target, visible), visible, hidden)  # (B, D)
            contrast = mean_contrast(contrast, self.contrast(swapped, self.target_feature(online)))

        loss_c = self.contrast_scale * contrast.loss
        loss = self.reconstruction_weight * loss_r + self.contrast_weight * loss_c
        return {
            "loss": loss,
            "loss_reconstruction": loss_r.detach(),
            "loss_contrastive": contrast.loss.detach(),
            "positive_similarity": contrast.positive_similarity,
            "negative_similarity": contrast.negative_similarity,
            "instance_accuracy": contrast.instance_accuracy,
            "feature_std": feature_std(y_s),
        }

    def _check_batch(self, online: Tensor, target: Tensor, mask: Tensor) -> None:
        """Clips and masks that are too few or too short would be gathered without a word."""
        self.encoder.check_clip(online)
        if len(online) == 0:
            raise ValueError("the batch is empty; give at least one clip")
        if target.shape != online.shape:
            raise ValueError(
                f"target must have the shape of online, {tuple(online.shape)}; got "
                f"{tuple(target.shape)}"
            )
        expected = len(online), self.encoder.num_tokens
        if tuple(mask.shape) != expected:
            raise ValueError(
                f"mask must be (B, N) = {expected}, a row for each clip; got {tuple(mask.shape)}"
            )

    def reconstruction(self, z: Tensor, video: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """L_r (equation 7) over the hidden tokens that are decoded.

        Args:
            z: (B, V, D) encoded visible tokens of `video`.
            video: (B, C, T, H, W), normalised.
            visible: (B, V) indices.
            hidden: (B, M) indices.

        Returns:
            () fp32.
        """
        decoded = random_subset(hidden, self.decoder_keep_ratio)  # (B, M)
        prediction = self.decode(z, visible, decoded)  # (B, M, P*C)
        return reconstruction_loss(prediction, self.pixels(video, decoded))

    def decode(self, z: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predicts the pixels of hidden tubelets: (B, V, D), (B, V), (B, M) -> (B, M, P*C)."""
        x = self.encoder_to_decoder(z)  # (B, V, d)
        x = with_hidden_tokens(x, visible, hidden, self.mask_token, self.decoder_pos_embed)
        return self.decoder(x, num_hidden=hidden.shape[1])  # (B, M, P*C)

    def online_feature(self, z: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """y_s: (B, V, D), (B, V), (B, M) -> (B, D), the mean of visible or completed tokens."""
        if self.feature_decoder is None:
            return z.mean(dim=1)  # (B, D)
        return self.feature_decoder(z, visible, hidden).mean(dim=1)  # (B, D)

    @torch.no_grad()
    def target_feature(self, video: Tensor) -> Tensor:
        """y_t: (B, C, T, H, W) -> (B, D), the mean of the target's tokens, without gradient."""
        parts = torch.split(video, self.encoder.clips_at_once(video.device))
        return torch.cat([self.encode_target(part).mean(dim=1) for part in parts])  # (B, D)

    @torch.no_grad()
    def encode_target(self, video: Tensor) -> Tensor:
        """Tokens of the target view, all or a subset: (B, C, T, H, W) -> (B, N, D)."""
        seen = None
        if self.target_keep_ratio < 1:
            everything = torch.arange(self.encoder.num_tokens, device=video.device)  # (N,)
            seen = random_subset(everything.expand(video.shape[0], -1), self.target_keep_ratio)
        if self.target_final_norm:
            return self.target_encoder(video, seen)
        return self.target_encoder.forward_blocks(video, seen)

    def contrast(self, y_s: Tensor, y_t: Tensor) -> Contrast:
        """L_c of features (B, D) of the online and (B, D) of the target branch (equation 5)."""
        query = self.predictor(self.projector(y_s))  # (B, projection)
        with torch.no_grad():
            key = self.target_projector(y_t)  # (B, projection)
        return info_nce(query, key, temperature=self.temperature)

    @torch.no_grad()
    def update_target(self, momentum: float, *, taken: Tensor | None = None) -> None:
        """EMA of encoder and projector parameters (equation 3); call it after the optimiser step.

        Batch-norm statistics are not averaged: the target normalises with those of its own batch.

        Args:
            momentum: mu, the share of the target that stays.
            taken: () fp32; 0 leaves the target as it is, as after a step that was left out.
        """
        if self.contrastive:
            move_average(self.target_encoder, self.encoder, momentum=momentum, taken=taken)
            move_average(self.target_projector, self.projector, momentum=momentum, taken=taken)
