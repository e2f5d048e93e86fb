"""ONNX Runtime sessions: which device, how many threads, and no silent fallback."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from cmaev_serving.metadata import ModelError, ModelMetadata

Device = Literal["cpu", "cuda"]
_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Session:
    """An exported model: uint8 frames (B, T, H, W, 3) -> logits (B, classes)."""

    def __init__(self, path: Path, *, device: Device = "cpu", threads: int = 0) -> None:
        """Opens a model.

        Args:
            path: the ONNX file.
            device: where it runs.
            threads: CPU threads of one inference; 0 takes one per core.

        Raises:
            ModelError: if the file is missing or is no model, or if the device cannot be used.
        """
        if not path.is_file():
            raise ModelError(f"model: {path} is not there")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        provider = _PROVIDERS[device]
        if device == "cuda":
            onnxruntime.preload_dlls()
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=[provider]
            )
        except _LOAD_ERRORS as error:
            raise ModelError(
                f"model: {path.name} is not a model that ONNX Runtime reads"
            ) from error
        used = self._session.get_providers()[0]
        if used != provider:
            raise ModelError(f"device: {device} was asked for but ONNX Runtime fell back to {used}")
        self._input = self._session.get_inputs()[0].name

    def properties(self) -> dict[str, str]:
        """The raw metadata of the file."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def metadata(self) -> ModelMetadata:
        """The metadata of a model that cmaev exported."""
        return ModelMetadata.from_properties(self.properties())

    def logits(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Runs the model: frames (B, T, H, W, 3) -> logits (B, classes)."""
        (logits,) = self._session.run(None, {self._input: frames})
        assert isinstance(logits, np.ndarray)
        return logits


def parse_device(name: str) -> Device:
    """A device by its name.

    Raises:
        ModelError: for an unknown one.
    """
    for device in _PROVIDERS:
        if device == name:
            return device
    raise ModelError(f"device: {name!r} is unknown; choose one of {', '.join(_PROVIDERS)}")
