"""A copy of a training state, to be written while the training goes on."""

from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """A copy of tensors in nested dictionaries, lists and tuples.

    On CUDA the host does not wait: copies to page-locked memory queue behind the work that was
    launched before, and the steps that follow queue behind the copies. The memory is kept for the
    next copy, since to get it from the system takes longer than to fill it.
    """

    def __init__(self, device: torch.device) -> None:
        """Holds nothing yet.

        Args:
            device: where the state is.
        """
        self._device = device
        self._copy: dict[str, Any] = {}
        self._done: torch.cuda.Event | None = None

    def take(self, state: dict[str, Any]) -> None:
        """Begins to copy, over the copy before; what changes `state` may be launched afterwards."""
        self._copy = _copied(state, over=self._copy)
        if self._device.type == "cuda":
            self._done = torch.cuda.current_stream(self._device).record_event()

    def read(self) -> dict[str, Any]:
        """The copy, in host memory; waits until it is whole. Any thread may ask."""
        if self._done is not None:
            self._done.synchronize()
        return self._copy


def _copied(value: Any, *, over: Any) -> Any:
    if isinstance(value, Tensor):
        return _host(value, over=over).copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        before = over if isinstance(over, dict) else {}
        return {name: _copied(inner, over=before.get(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(inner, over=None) for inner in value)
    return value


def _host(value: Tensor, *, over: Any) -> Tensor:
    if isinstance(over, Tensor) and (over.shape, over.dtype) == (value.shape, value.dtype):
        return over
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
