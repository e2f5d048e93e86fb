"""Copies of a training state, to be written while the training goes on."""

from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """A copy of tensors in nested dictionaries, lists and tuples.

    On CUDA the host does not wait: copies to page-locked memory queue behind the work that was
    launched before, and the steps that follow queue behind the copies.
    """

    def __init__(self, state: dict[str, Any], device: torch.device) -> None:
        """Begins to copy; what changes `state` may be launched afterwards."""
        self._copy = _copied(state)
        self._done: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._done = torch.cuda.current_stream(device).record_event()

    def read(self) -> dict[str, Any]:
        """The copy, in host memory; waits until it is whole. Any thread may ask."""
        if self._done is not None:
            self._done.synchronize()
        return dict(self._copy)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        return host.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        return {name: _copied(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(inner) for inner in value)
    return value
