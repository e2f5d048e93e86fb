"""From a PyTorch classifier to an ONNX file that takes uint8 frames.

Shapes: B clips, T frames, H height, W width.
"""

import contextlib
import io
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cmaev.models.frames import FrameNormaliser
from cmaev_serving.metadata import ModelError, ModelMetadata

_ONNX_LIMIT = 2**31 - 2**24
"""A protobuf file ends at 2 GiB; the difference leaves room for the graph beside the weights."""


class FramesToLogits(nn.Module):
    """A classifier with the normalisation of its input inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.normalise = FrameNormaliser()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 frames (B, T, H, W, 3) -> logits (B, classes)."""
        logits: Tensor = self.model(self.normalise(frames))  # (B, classes)
        return logits

    def logits(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same on arrays, without gradients."""
        with torch.inference_mode():
            logits: NDArray[np.float32] = self(torch.from_numpy(frames)).numpy()
            return logits


def write_onnx(
    module: FramesToLogits, path: Path, *, clip_shape: tuple[int, int, int, int]
) -> None:
    """Exports with any batch size and all weights in the one file.

    Args:
        module: the model to export, in evaluation mode.
        path: the file to write.
        clip_shape: (T, H, W, 3).

    Raises:
        ModelError: if the weights do not fit into one ONNX file.
    """
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    if size > _ONNX_LIMIT:
        raise ModelError(f"model: {size} bytes of weights are more than an ONNX file holds (2 GiB)")
    example = torch.zeros((2, *clip_shape), dtype=torch.uint8)
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            module,
            (example,),
            path,
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            input_names=["frames"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )


def write_metadata(path: Path, metadata: ModelMetadata) -> None:
    """Adds the metadata to an exported file."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata.to_properties())
    onnx.save(model, path)
