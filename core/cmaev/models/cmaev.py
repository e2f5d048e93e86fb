"""CMAE-V: a masked autoencoder and an InfoNCE loss against an EMA target (paper section 3).

Shapes: B clips, C channels, N tokens, V visible, M hidden, D width of the encoder, d width of the
decoder. Masks are (B, N) bool, True = hidden.
"""

import copy
from typing import Literal, Self

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from cmaev.data.constants import IMAGENET_MEAN, IMAGENET_STD
from cmaev.losses import info_nce, pixel_targets, reconstruction_loss
from cmaev.models.decoder import PixelDecoder
from cmaev.models.encoder import VideoEncoder
from cmaev.models.heads import projection_head
from cmaev.models.init import init_pretraining_
from cmaev.models.tubelet import gather_tokens, sincos_table


class CMAEV(nn.Module):
    """The pretraining model.

    The online branch sees the visible tubes of one view; the target branch, an exponential moving
    average of encoder and projector, sees all of a view shifted in time. With `contrast_weight=0`
    there is no target branch, and the model is a plain masked autoencoder.
    """

    decoder_pos_embed: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: VideoEncoder,
        *,
        decoder_dim: int,
        decoder_depth: int,
        decoder_heads: int,
        contrast_weight: float = 1.0,
        contrast_scale: Literal["two_tau", "one"] = "two_tau",
        temperature: float = 0.07,
        target_final_norm: bool = True,
        projection_dim: int = 256,
    ) -> None:
        super().__init__()
        if contrast_weight < 0 or temperature <= 0:
            raise ValueError("contrast_weight must not be negative, temperature must be positive")
        self.contrast_weight = contrast_weight
        self.contrast_scale = 2 * temperature if contrast_scale == "two_tau" else 1.0
        self.temperature = temperature
        self.target_final_norm = target_final_norm

        dim = encoder.embed_dim
        self.encoder = encoder
        self.encoder_to_decoder = nn.Linear(dim, decoder_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder = PixelDecoder(
            embed_dim=decoder_dim,
            depth=decoder_depth,
            num_heads=decoder_heads,
            num_outputs=3 * encoder.tubelet_size * encoder.patch_size**2,
        )
        init_pretraining_(self.encoder)
        init_pretraining_(self.decoder)
        trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

        if self.contrastive:
            hidden = 2 * dim
            self.projector = projection_head(dim, hidden_dim=hidden, out_dim=projection_dim)
            self.predictor = projection_head(
                projection_dim, hidden_dim=hidden, out_dim=projection_dim
            )
            self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
            self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
            self.target_encoder.eval()

        table = sincos_table(encoder.num_tokens, decoder_dim)
        self.register_buffer("decoder_pos_embed", table, persistent=False)
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            statistic = torch.tensor(values).reshape(1, 3, 1, 1, 1)  # (1, C, 1, 1, 1)
            self.register_buffer(name, statistic, persistent=False)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all but the target encoder, which is never stochastic."""
        super().train(mode)
        if self.contrastive:
            self.target_encoder.eval()
        return self

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Trades time for memory: the blocks of encoder and decoder run again in backward."""
        self.encoder.set_grad_checkpointing(enabled)
        self.decoder.set_grad_checkpointing(enabled)

    @property
    def contrastive(self) -> bool:
        """Whether there is a target branch."""
        return self.contrast_weight > 0

    def forward(
        self, online: Tensor, target: Tensor, mask: Tensor, num_visible: int | None = None
    ) -> dict[str, Tensor]:
        """The whole objective, L = L_r + lambda_c L_c (equation 9).

        Args:
            online: (B, C, T, H, W), normalised.
            target: (B, C, T, H, W), normalised: later by the shift, colour-augmented.
            mask: (B, N) bool, True = hidden, with the same count in every row.
            num_visible: V; None reads it from the mask, at the price of a host synchronisation.

        Returns:
            `loss` and its parts, each a () tensor; all but `loss` are detached.
        """
        visible, hidden = split_mask(mask, num_visible)  # (B, V), (B, M)
        z_s = self.encoder(online, visible)  # (B, V, D)

        prediction = self.decode(z_s, visible, hidden)  # (B, M, P*C)
        pixels = gather_tokens(self.pixel_targets(online), hidden)  # (B, M, P*C)
        loss_r = reconstruction_loss(prediction, pixels)
        if not self.contrastive:
            return {"loss": loss_r, "loss_reconstruction": loss_r.detach()}

        y_s = z_s.mean(dim=1)  # (B, D)
        y_t = self.encode_target(target).mean(dim=1)  # (B, D)
        query = self.predictor(self.projector(y_s))  # (B, projection)
        with torch.no_grad():
            key = self.target_projector(y_t)  # (B, projection)
        contrast = info_nce(query, key, temperature=self.temperature)

        loss = loss_r + self.contrast_weight * self.contrast_scale * contrast.loss
        return {
            "loss": loss,
            "loss_reconstruction": loss_r.detach(),
            "loss_contrastive": contrast.loss.detach(),
            "positive_similarity": contrast.positive_similarity,
            "negative_similarity": contrast.negative_similarity,
            "instance_accuracy": contrast.instance_accuracy,
            "feature_std": nn.functional.normalize(y_s.detach().float(), dim=-1).std(dim=0).mean(),
        }

    def decode(self, z: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predicts the pixels of hidden tubelets: (B, V, D), (B, V), (B, M) -> (B, M, P*C)."""
        positions = self.decoder_pos_embed.expand(z.shape[0], -1, -1)  # (B, N, d)
        x = self.encoder_to_decoder(z)  # (B, V, d)
        x_visible = x + gather_tokens(positions, visible).to(x.dtype)  # (B, V, d)
        x_hidden = (self.mask_token + gather_tokens(positions, hidden)).to(x.dtype)  # (B, M, d)
        x = torch.cat((x_visible, x_hidden), dim=1)  # (B, N, d)
        return self.decoder(x, num_hidden=hidden.shape[1])  # (B, M, P*C)

    @torch.no_grad()
    def encode_target(self, video: Tensor) -> Tensor:
        """All tokens of the target view: (B, C, T, H, W) -> (B, N, D), without gradient."""
        if self.target_final_norm:
            return self.target_encoder(video)
        return self.target_encoder.forward_blocks(video)

    @torch.no_grad()
    def pixel_targets(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W), normalised -> (B, N, P*C), standardised pixels of [0, 1] values."""
        return pixel_targets(
            video * self.std + self.mean,
            tubelet_size=self.encoder.tubelet_size,
            patch_size=self.encoder.patch_size,
        )

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """EMA of encoder and projector parameters (equation 3); call it after the optimiser step.

        Batch-norm statistics are not averaged: the target normalises with those of its own batch.
        """
        if not self.contrastive:
            return
        online: list[Tensor] = [*self.encoder.parameters(), *self.projector.parameters()]
        target: list[Tensor] = [
            *self.target_encoder.parameters(),
            *self.target_projector.parameters(),
        ]
        torch._foreach_lerp_(target, online, 1.0 - momentum)


def split_mask(mask: Tensor, num_visible: int | None = None) -> tuple[Tensor, Tensor]:
    """Indices of visible and of hidden tokens, each in raster order.

    A stable sort with a static count keeps shapes static, which boolean indexing does not.

    Args:
        mask: (B, N) bool, True = hidden.
        num_visible: V; None reads it from the mask.

    Returns:
        (B, V) and (B, N - V).

    Raises:
        ValueError: if `num_visible` is None and the rows of the mask differ in their count.
    """
    if num_visible is None:
        counts = (~mask).sum(dim=1).tolist()
        if len(set(counts)) != 1:
            raise ValueError("mask must hide the same number of tokens in every sample")
        num_visible = int(counts[0])
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)  # (B, N), visible first
    return order[:, :num_visible], order[:, num_visible:]
