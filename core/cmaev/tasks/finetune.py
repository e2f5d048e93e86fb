"""Finetuning: cross-entropy on labelled clips, augmented on the device (method.md 5).

Shapes: B videos, R clips of each, T frames, H x W pixels, C = 3 channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cmaev.data.device import flip_clips
from cmaev.data.erasing import erase
from cmaev.data.mixup import draw_mixing, mix
from cmaev.data.rand_augment import rand_augment
from cmaev.engine.optim import layer_decay_scale
from cmaev.models.classifier import VideoClassifier
from cmaev.models.frames import FrameNormaliser
from cmaev.tasks.base import Batch
from cmaev_spec.data import AugmentSpec


class FinetuneTask:
    """Batches hold `video` (B, R, T, H, W, C) uint8, `label` (B,) and what the samples drew.

    That is, where it is on, `rand_augment` (B, R, N, 2) on the host, `flip` (B, R), `erase`
    (B, R, 4).
    """

    name = "finetune"

    def __init__(
        self,
        module: VideoClassifier,
        *,
        label_smoothing: float,
        layer_decay: float,
        augment: AugmentSpec,
        class_weight: Tensor | None = None,
    ) -> None:
        """Takes the model and its recipe.

        Args:
            module: the classifier.
            label_smoothing: share of every target that is spread over all classes.
            layer_decay: factor on the learning rate from a layer to the one below it.
            augment: what is done to clips.
            class_weight: (K,) factors on the losses of each class, on the device; None: all are 1.
        """
        self.module: VideoClassifier = module
        self.inputs = FrameNormaliser()
        self.label_smoothing = label_smoothing
        self.augment = augment
        self.class_weight = class_weight
        self._scale = layer_decay_scale(layer_decay, module.encoder)

    def step(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Loss and training accuracy of one micro-batch.

        The loss of a mixed clip is that of both labels by their shares, which is the cross-entropy
        with the mixed, smoothed target. The accuracy is by the label with the larger share.
        """
        video = self._augmented(batch)  # (B*R, C, T, H, W)
        label = batch["label"].repeat_interleave(batch["video"].shape[1])  # (B*R,)
        mixing = draw_mixing(
            mixup=self.augment.mixup,
            cutmix=self.augment.cutmix,
            height=video.shape[3],
            width=video.shape[4],
        )
        logits: Tensor = module(mix(video, mixing))  # (B*R, num_classes)
        loss = self._loss(logits, label)
        if mixing.share < 1:
            other = self._loss(logits, label.flip(0))
            loss = mixing.share * loss + (1 - mixing.share) * other
            label = label if mixing.share >= 0.5 else label.flip(0)
        accuracy = (logits.detach().argmax(dim=1) == label).float().mean()
        return {"loss": loss, "train_accuracy": accuracy}

    def _augmented(self, batch: Batch) -> Tensor:
        """Clips that are changed as drawn, and normalised."""
        video = batch["video"].flatten(0, 1)  # (B*R, T, H, W, C)
        if "rand_augment" in batch:
            video = rand_augment(video, batch["rand_augment"].flatten(0, 1))
        if "flip" in batch:
            video = flip_clips(video, batch["flip"].flatten())
        video = self.inputs(video)  # (B*R, C, T, H, W)
        if "erase" in batch:
            video = erase(video, batch["erase"].flatten(0, 1))
        return video

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(
            logits.float(), label, self.class_weight, label_smoothing=self.label_smoothing
        )

    def layer_scale(self, name: str) -> float:
        """Deeper layers learn faster."""
        return self._scale(name)

    def after_step(self, step: int, *, total_steps: int, taken: Tensor) -> None:
        """Nothing to do."""
