"""The exported classifier in ONNX Runtime, against PyTorch: parity first, then speed."""

import contextlib
import io
import tempfile
from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch
from bench.gpu.finetuning import classifier
from bench.gpu.harness import Bench, CannotMeasureError, Figures
from bench.gpu.inputs import random_frames
from bench.gpu.measure import time_calls
from torch import Tensor, nn

from cmaev.models.architectures import architecture
from cmaev.models.frames import FrameNormaliser

TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2}
"""Of the norm of the difference over the norm of the logits."""


def onnx_runtime(bench: Bench) -> None:
    """ViT-B in fp32 and in fp16."""
    name, batch = bench.model("base"), bench.size(16, small=2)
    for dtype in TOLERANCE:
        case = f"ViT-B, {str(dtype).removeprefix('torch.')}, batch {batch}"
        bench.case("onnx", case, partial(compare, bench, name, batch=batch, dtype=dtype))


def compare(bench: Bench, name: str, *, batch: int, dtype: torch.dtype) -> Figures:
    """Exports, asserts parity against fp32 eager, and times both."""
    import onnxruntime

    if bench.quick and dtype == torch.float16:
        raise CannotMeasureError("in small, fp32 stands for both")
    provider, options = provider_for(bench.device)
    package, offered = installed("onnxruntime"), onnxruntime.get_available_providers()
    if provider not in offered:
        raise CannotMeasureError(f"{package} has no {provider}, but {', '.join(offered)}")
    model = nn.Sequential(FrameNormaliser(), classifier(bench, name)).eval().to(bench.device)
    nn.init.normal_(model[1].head.weight, std=0.05)  # logits that differ
    shape = architecture(name)
    size = (batch, shape.num_frames, shape.img_size, shape.img_size, 3)
    frames = random_frames(*size, device=bench.device)
    with torch.inference_mode():
        expected = model(frames)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(model.to(dtype), frames, path)
        session = onnxruntime.InferenceSession(str(path), providers=[(provider, options)])
    if provider not in session.get_providers():
        raise CannotMeasureError(f"{provider} of {package} is there but does not start")
    run = Bound(session, frames, expected.to(dtype))
    error = ((run().float() - expected).norm() / expected.norm()).item()
    assert error < TOLERANCE[dtype], f"{error:.1e} away from eager fp32"

    def eager() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(frames)
            return logits

    ours, theirs = time_calls(bench, run).median, time_calls(bench, eager).median
    return {
        "package": package,
        "provider": provider,
        "error": error,
        "ms": ours * 1e3,
        "eager ms": theirs * 1e3,
        "times as fast": theirs / ours,
    }


def provider_for(device: torch.device) -> tuple[str, dict[str, str]]:
    """What computes on a device, and its options: fp32 products without TF32, as in PyTorch."""
    if device.type == "cuda":
        return "CUDAExecutionProvider", {"device_id": str(device.index or 0), "use_tf32": "0"}
    return "CPUExecutionProvider", {}


def installed(module: str) -> str:
    """The packages that a module may come from, with their versions."""
    names = sorted(set(packages_distributions().get(module, ())))
    return " and ".join(f"{name} {version(name)}" for name in names) or f"{module} of no package"


def export(model: nn.Module, frames: Tensor, path: Path) -> None:
    """Writes an ONNX file for this one shape."""
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            model,
            (frames,),
            path,
            dynamo=True,
            input_names=["frames"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )


class Bound:
    """A session that reads and writes tensors where they lie; a call ends when it is done."""

    def __init__(self, session: Any, frames: Tensor, like: Tensor) -> None:
        self._session, self._frames, self._out = session, frames, torch.empty_like(like)
        self._io = session.io_binding()
        for bind, name, tensor in (
            (self._io.bind_input, "frames", self._frames),
            (self._io.bind_output, "logits", self._out),
        ):
            bind(
                name,
                tensor.device.type,
                tensor.device.index or 0,
                torch.empty(0, dtype=tensor.dtype).numpy().dtype.type,
                tuple(tensor.shape),
                tensor.data_ptr(),
            )

    def __call__(self) -> Tensor:
        """The logits."""
        self._session.run_with_iobinding(self._io)
        return self._out
