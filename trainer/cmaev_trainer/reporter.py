"""Sends a run's `events.jsonl` to the control plane, whole lines only, from where it stopped.

The file is the buffer: while the control plane is away nothing is held in memory, and the byte
position of each line makes a repeated batch harmless.
"""

from pathlib import Path

import structlog
from pydantic import ValidationError

from cmaev_spec.events import EVENT_ADAPTER, OutcomeEvent
from cmaev_spec.worker_protocol import PositionedEvent
from cmaev_trainer.client import ControlPlane, RefusedError

log = structlog.get_logger(__name__)

BATCH_EVENTS = 500
CHUNK_BYTES = 1 << 20


class EventTail:
    """Reads events from a growing file.

    Args:
        path: the events file; it need not exist yet.
        offset: bytes that are dealt with already.
    """

    def __init__(self, path: Path, *, offset: int) -> None:
        self._path = path
        self.offset = offset

    def read(self) -> tuple[list[PositionedEvent], int]:
        """The next events, and the offset after them. Lines that are no events are skipped."""
        events: list[PositionedEvent] = []
        end = self.offset
        for line in self._lines():
            end += len(line)
            event = _parse(line, end)
            if event is not None:
                events.append(event)
            if len(events) == BATCH_EVENTS:
                break
        return events, end

    def _lines(self) -> list[bytes]:
        try:
            with open(self._path, "rb") as file:
                file.seek(self.offset)
                chunk = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return []
        lines = chunk.splitlines(keepends=True)
        overlong = len(lines) == 1 and len(chunk) == CHUNK_BYTES
        if lines and not lines[-1].endswith(b"\n") and not overlong:
            lines.pop()
        return lines


class Reporter:
    """Tails the events of one attempt and posts them.

    Args:
        control: where to send them.
        token: fencing token of the lease.
        tail: what to send.
    """

    def __init__(self, control: ControlPlane, *, token: int, tail: EventTail) -> None:
        self._control = control
        self._token = token
        self._tail = tail
        self._outcome: OutcomeEvent | None = None

    def outcome(self, *, since: float) -> OutcomeEvent | None:
        """The last outcome among the events sent, if it was written at `since` or later."""
        if self._outcome is None or self._outcome.time < since:
            return None
        return self._outcome

    def flush(self) -> None:
        """Sends everything that is in the file.

        Raises:
            LeaseLostError: if the control plane refuses this worker.
            UnreachableError: if it does not answer; the next call goes on from the same place.
        """
        while True:
            events, end = self._tail.read()
            if end == self._tail.offset:
                return
            if events:
                self._send(events)
            for item in events:
                if isinstance(item.event, OutcomeEvent):
                    self._outcome = item.event
            self._tail.offset = end

    def _send(self, events: list[PositionedEvent]) -> None:
        try:
            self._control.send_events(self._token, events)
        except RefusedError as error:
            # A batch that can never be stored must not hold back those after it, nor end the run.
            log.error("events refused, skipped", first=events[0].end_offset, reason=str(error))


def _parse(line: bytes, end: int) -> PositionedEvent | None:
    if not line.strip():
        return None
    try:
        return PositionedEvent(end_offset=end, event=EVENT_ADAPTER.validate_json(line))
    except ValidationError as error:
        log.warning("line is no event, skipped", end_offset=end, problem=str(error)[:300])
        return None
