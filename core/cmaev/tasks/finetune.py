"""Finetuning: cross-entropy on labelled clips (method.md 5)."""

import torch.nn.functional as F
from torch import Tensor, nn

from cmaev.data.device import flip_clips
from cmaev.engine.optim import layer_decay_scale
from cmaev.models.classifier import VideoClassifier
from cmaev.models.frames import FrameNormaliser
from cmaev.tasks.base import Batch


class FinetuneTask:
    """Batches hold `video` (B, T, H, W, C) uint8, `label` (B,) and maybe `flip` (B,)."""

    name = "finetune"

    def __init__(
        self, module: VideoClassifier, *, label_smoothing: float, layer_decay: float
    ) -> None:
        self.module: VideoClassifier = module
        self.normalise = FrameNormaliser()
        self.label_smoothing = label_smoothing
        self._scale = layer_decay_scale(layer_decay, module.encoder)

    def step(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Loss and training accuracy of one micro-batch."""
        video = batch["video"]
        if "flip" in batch:
            video = flip_clips(video, batch["flip"])  # (B, T, H, W, C)
        video = self.normalise.to(video.device)(video)  # (B, C, T, H, W)
        logits: Tensor = module(video)  # (B, num_classes)
        label = batch["label"]  # (B,)
        loss = F.cross_entropy(logits.float(), label, label_smoothing=self.label_smoothing)
        accuracy = (logits.detach().argmax(dim=1) == label).float().mean()
        return {"loss": loss, "train_accuracy": accuracy}

    def layer_scale(self, name: str) -> float:
        """Deeper layers learn faster."""
        return self._scale(name)

    def after_step(self, step: int, *, total_steps: int) -> None:
        """Nothing to do."""
