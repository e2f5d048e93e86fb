"""Batches on their way to the device, beside the work that it is busy with."""

from collections import deque
from typing import Final

import torch

from cmaev.tasks.base import Batch, to_device

STEPS_AHEAD: Final = 2


class DeviceFeed:
    """Copies batches to the device; on CUDA, while the device computes.

    A copy on the computing stream would wait for all that was launched before it. Here copies have
    a stream of their own, and since nothing else stops the host, it is held back when it is
    `STEPS_AHEAD` batches ahead, so that waiting batches do not fill the memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._begun: deque[torch.cuda.Event] = deque()

    def __call__(self, batch: Batch) -> Batch:
        """The batch on the device; work that is launched after this may use it."""
        if self._copies is None:
            return to_device(batch, self._device)
        working = torch.cuda.current_stream(self._device)
        self._begun.append(working.record_event())
        if len(self._begun) > STEPS_AHEAD:
            self._begun.popleft().synchronize()
        with torch.cuda.stream(self._copies):
            moved = to_device(batch, self._device)
        working.wait_stream(self._copies)
        for tensor in moved.values():
            if tensor.is_cuda:
                tensor.record_stream(working)  # its memory is not given to the next copy too early
        return moved
