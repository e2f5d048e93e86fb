"""Evaluation: every video once, all its views, softmax averaged over views (method.md 5.1).

Shapes: B videos, V views of each, K classes.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cmaev.engine.distributed import World
from cmaev.engine.precision import autocast
from cmaev.engine.signals import StopRequest
from cmaev.models.classifier import VideoClassifier
from cmaev.models.frames import FrameNormaliser
from cmaev.tasks.base import Batch, to_device


@dataclass(frozen=True)
class Evaluation:
    """Probabilities and truths of all videos, in index order."""

    index: npt.NDArray[np.int64]
    """(n,) positions in the video index."""
    label: npt.NDArray[np.int64]
    """(n,) true classes."""
    probability: npt.NDArray[np.float32]
    """(n, K) mean of the views' softmax."""

    @property
    def prediction(self) -> npt.NDArray[np.int64]:
        """(n,) most probable classes."""
        return np.asarray(self.probability.argmax(axis=1), dtype=np.int64)

    def figures(self) -> dict[str, float]:
        """Top-1, top-5 where there are more than five classes, and macro-recall."""
        figures = {
            "num_videos": float(len(self.label)),
            "top1": float((self.prediction == self.label).mean()),
        }
        if self.probability.shape[1] > 5:
            best = np.argsort(-self.probability, axis=1)[:, :5]  # (n, 5)
            figures["top5"] = float((best == self.label[:, None]).any(axis=1).mean())
        figures["macro_recall"] = float(np.mean(list(self.recall().values())))
        return figures

    def recall(self) -> dict[int, float]:
        """Recall of every class that occurs."""
        return {
            int(c): float((self.prediction[self.label == c] == c).mean())
            for c in np.unique(self.label)
        }

    def confusion(self) -> npt.NDArray[np.int64]:
        """(K, K) videos, true classes in rows and predicted ones in columns."""
        K = self.probability.shape[1]
        counts = np.bincount(self.label * K + self.prediction, minlength=K * K)  # (K*K,)
        return counts.reshape(K, K)

    def to_csv(
        self, *, paths: Sequence[str], labels: Sequence[str], probabilities: bool = False
    ) -> str:
        """One line per video: path, true label, prediction, its probability.

        Args:
            paths: of the videos of the index.
            labels: names of the classes.
            probabilities: whether a column `p:<label>` for each class follows.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        all_classes = [f"p:{label}" for label in labels] if probabilities else []
        writer.writerow(["path", "label", "prediction", "probability", *all_classes])
        for row, best in enumerate(self.prediction):
            every = self.probability[row] if probabilities else ()
            writer.writerow(
                [
                    paths[int(self.index[row])],
                    labels[int(self.label[row])],
                    labels[int(best)],
                    f"{self.probability[row, best]:.4f}",
                    *(f"{value:.6f}" for value in every),
                ]
            )
        return text.getvalue()

    def confusion_csv(self, labels: Sequence[str]) -> str:
        """The confusion matrix with names: a line per true class, a column per predicted one."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["true", *labels])
        for label, counts in zip(labels, self.confusion().tolist(), strict=True):
            writer.writerow([label, *counts])
        return text.getvalue()


@torch.inference_mode()
def evaluate(
    model: VideoClassifier,
    batches: Iterator[Batch],
    *,
    world: World,
    stop: StopRequest,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int], None] | None = None,
) -> Evaluation | None:
    """Classifies every video of this process and gathers the answers of all processes.

    Args:
        model: the classifier.
        batches: `video` (B, V, T, H, W, C) uint8, `label` (B,), `index` (B,).
        world: the processes; each video must be in the batches of exactly one.
        stop: asked after every batch.
        dtype: of matrix products; probabilities are fp32.
        progress: called with the number of videos done so far.

    Returns:
        The evaluation, or None if a stop was requested.
    """
    was_training = model.training
    model.eval()
    normalise = FrameNormaliser().to(world.device)
    parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]] = []
    done = 0
    for batch in batches:
        on_device = to_device(batch, world.device)
        B, V = on_device["video"].shape[:2]
        with autocast(dtype, world.device):
            logits = model(normalise(on_device["video"].flatten(0, 1)))  # (B*V, K)
        probability = logits.float().softmax(dim=1).reshape(B, V, -1).mean(dim=1)  # (B, K)
        parts.append((batch["index"].numpy(), batch["label"].numpy(), probability.cpu().numpy()))
        done += B
        if progress is not None:
            progress(done)
        if stop.requested:
            break
    model.train(was_training)

    if world.any(stop.requested):
        return None
    gathered = [part for rank in world.gather(parts) for part in rank]
    if not gathered:  # Not one of the videos can be read; whoever counts them says so.
        none = np.zeros(0, dtype=np.int64)
        return Evaluation(index=none, label=none, probability=np.zeros((0, 0), dtype=np.float32))
    index = np.concatenate([part[0] for part in gathered])
    order = np.argsort(index)
    assert len(np.unique(index)) == len(index), "a video was evaluated twice"
    return Evaluation(
        index=index[order],
        label=np.concatenate([part[1] for part in gathered])[order],
        probability=np.concatenate([part[2] for part in gathered])[order],
    )
