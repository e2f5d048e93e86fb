"""What the model of a run says of videos, in this process.

Shapes: n videos, B of a batch, V views, T frames, S pixels square, D width, K classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmaev.checkpoints import LoadedClassifier
from cmaev.data.index import VideoIndex
from cmaev.data.reader import DiskReader
from cmaev.data.views import evaluation_views
from cmaev.engine.progress import ProgressDisplay
from cmaev.models import CMAEV, VideoClassifier
from cmaev.models.frames import FrameNormaliser
from cmaev_spec.data import ClipSpec
from cmaev_spec.serving_protocol import Prediction


@torch.inference_mode()
def classify(
    classifier: LoadedClassifier,
    index: VideoIndex,
    *,
    top_k: int,
    num_clips: int,
    num_crops: int,
) -> tuple[Prediction, ...]:
    """The most probable labels of the first video of an index, as an evaluation finds them.

    Raises:
        BadVideoError: if it cannot be read.
    """
    views = evaluation_views(
        DiskReader(index),
        0,
        clip=classifier.job.data.clip,
        num_clips=num_clips,
        num_crops=num_crops,
    )
    device = best_device()
    model = classifier.model.to(device)
    logits = model(normalised(views, device))  # (V, K)
    probability = logits.float().softmax(dim=1).mean(dim=0)  # (K,)
    values, places = probability.topk(min(top_k, len(probability)))
    return tuple(
        Prediction(label=classifier.labels[place], index=place, probability=min(value, 1.0))
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
    )


@torch.inference_mode()
def features(
    model: CMAEV | VideoClassifier,
    index: VideoIndex,
    clip: ClipSpec,
    *,
    batch_size: int,
    progress: bool,
) -> NDArray[np.float32]:
    """(n, D) pooled tokens of the central clip of every video.

    Raises:
        BadVideoError: for the first video that cannot be read.
    """
    device = best_device()
    model = model.to(device).eval()
    reader, parts = DiskReader(index), []
    with ProgressDisplay("features", total=len(index), enabled=progress) as display:
        for rows in np.split(np.arange(len(index)), range(batch_size, len(index), batch_size)):
            videos = [
                evaluation_views(reader, row, clip=clip, num_clips=1, num_crops=1)
                for row in rows.tolist()
            ]  # B of (1, T, S, S, 3)
            clips = normalised(np.concatenate(videos), device)  # (B, C, T, S, S)
            parts.append(_pooled(model, clips).float().cpu())  # (B, D)
            display.update(int(rows[-1]) + 1)
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def _pooled(model: CMAEV | VideoClassifier, clips: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B, D): tokens behind the final norm, or what a classifier's head sees."""
    mean: Tensor = model.encoder(clips).mean(dim=1)  # (B, D)
    return mean if isinstance(model, CMAEV) else torch.as_tensor(model.fc_norm(mean))


def normalised(views: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(V, T, S, S, 3) uint8 -> (V, 3, T, S, S) on the device."""
    normalise = FrameNormaliser().to(device)
    clips: Tensor = normalise(torch.from_numpy(views).to(device))
    return clips


def best_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
