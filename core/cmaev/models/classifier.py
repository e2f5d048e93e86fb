"""The finetuning model: encoder, mean pooling, norm, linear head (method.md 1.4).

Shapes: B clips, N tokens, D width.
"""

import torch
from torch import Tensor, nn

from cmaev.models.attention import LAYER_NORM_EPS
from cmaev.models.encoder import VideoEncoder
from cmaev.models.init import init_finetuning_


class VideoClassifier(nn.Module):
    """Mean of all tokens, layer norm, linear head; `num_classes=0` returns the features.

    Raises:
        ValueError: for a negative number of classes.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        *,
        num_classes: int,
        head_drop_rate: float = 0.0,
        init_scale: float = 0.001,
    ) -> None:
        super().__init__()
        if num_classes < 0:
            raise ValueError(f"num_classes ({num_classes}) must not be negative; 0 is no head")
        self.encoder = encoder
        self.fc_norm = nn.LayerNorm(encoder.embed_dim, eps=LAYER_NORM_EPS)
        self.fc_dropout = nn.Dropout(head_drop_rate) if head_drop_rate > 0 else nn.Identity()
        self.head = nn.Linear(encoder.embed_dim, num_classes) if num_classes else nn.Identity()
        init_finetuning_(self)
        if isinstance(self.head, nn.Linear):
            with torch.no_grad():
                self.head.weight.mul_(init_scale)
                self.head.bias.mul_(init_scale)

    def forward(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W), normalised -> (B, num_classes) logits, or (B, D) features."""
        x = self.encoder(video)  # (B, N, D)
        x = self.fc_norm(x.mean(dim=1))  # (B, D)
        return self.head(self.fc_dropout(x))
