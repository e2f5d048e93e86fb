"""The predictor: a video file in, label names with probabilities out. Never imports torch."""

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmaev_serving.limits import VideoLimits
from cmaev_serving.metadata import ModelError
from cmaev_serving.preprocess import load_views
from cmaev_serving.runtime import Device, Session
from cmaev_spec.serving_protocol import Classification, Prediction


class Predictor:
    """An exported model with everything around it that a video needs."""

    def __init__(
        self,
        model: Path,
        *,
        device: Device = "cpu",
        threads: int = 0,
        limits: VideoLimits | None = None,
    ) -> None:
        """Opens a model.

        Args:
            model: the ONNX file of an export.
            device: where it runs.
            threads: CPU threads of one inference; 0 takes one per core.
            limits: what a video may ask for; the defaults where None.

        Raises:
            ModelError: if the file is no model of cmaev or the device cannot be used.
        """
        self._session = Session(model, device=device, threads=threads)
        self._limits = limits or VideoLimits()
        self.metadata = self._session.metadata()

    def predict(self, source: Path, *, top_k: int = 5) -> Classification:
        """Classifies a video: the mean of the views' probabilities, best labels first.

        Raises:
            DataError: if the video cannot be used, with the reason for users.
        """
        views = load_views(source, self.metadata.sampling, limits=self._limits)
        begin = time.perf_counter()
        probabilities = softmax(self._session.logits(views.frames)).mean(axis=0)  # (classes,)
        inference = (time.perf_counter() - begin) * 1000
        provenance = self.metadata.provenance
        return Classification(
            model=provenance.name,
            version=f"step-{provenance.checkpoint_step}",
            predictions=self._best(probabilities, top_k),
            views=views.times,
            video=views.video,
            milliseconds={"decode": round(views.milliseconds, 2), "inference": round(inference, 2)},
        )

    def _best(self, probabilities: NDArray[np.float64], top_k: int) -> tuple[Prediction, ...]:
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return tuple(
            Prediction(
                label=self.metadata.labels[index],
                index=int(index),
                probability=min(float(probabilities[index]), 1.0),
            )
            for index in order
        )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities along the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponents = np.exp(shifted)
    return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True))


def find_model(path: Path) -> Path:
    """The ONNX file that a path stands for: itself, or the one in an export folder or a run.

    Raises:
        ModelError: if there is none.
    """
    for candidate in (path, path / "model.onnx", path / "export" / "model.onnx"):
        if candidate.is_file():
            return candidate
    raise ModelError(
        f"model: {path} is no .onnx file and holds no model.onnx; run `cmaev export` first"
    )
