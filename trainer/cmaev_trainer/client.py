"""The worker's side of cmaev_spec.worker_protocol, over HTTP."""

from collections.abc import Sequence
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from cmaev_spec.worker_protocol import (
    AttemptReceipt,
    AttemptReport,
    EventBatch,
    EventReceipt,
    Heartbeat,
    HeartbeatReply,
    LeaseGrant,
    LeaseRequest,
    PositionedEvent,
)

Answer = TypeVar("Answer", bound=BaseModel)


class LeaseLostError(RuntimeError):
    """The control plane refuses this worker: another holds the lease, or the attempt is over."""


class RefusedError(RuntimeError):
    """The control plane says that the request can never succeed, e.g. an unknown attempt."""


class UnreachableError(RuntimeError):
    """No useful answer now; the same request may succeed later."""


class ControlPlane:
    """A connection to the control plane for one attempt.

    Args:
        http: client with the base URL and the worker's key.
        attempt_id: the attempt to speak for.
    """

    def __init__(self, http: httpx.Client, *, attempt_id: str) -> None:
        self._http = http
        self._attempt = f"/v1/attempts/{attempt_id}"

    def lease(self, request: LeaseRequest) -> LeaseGrant:
        """Takes the lease.

        Raises:
            LeaseLostError: if another worker has it or the attempt is over.
            RefusedError: if there is no such attempt.
            UnreachableError: if there is no answer; try again later.
        """
        return self._post(":lease", request, LeaseGrant)

    def heartbeat(self, token: int) -> HeartbeatReply:
        """Renews the lease and learns what is wanted; raises as `lease`."""
        return self._post(":heartbeat", Heartbeat(token=token), HeartbeatReply)

    def send_events(self, token: int, events: Sequence[PositionedEvent]) -> EventReceipt:
        """Stores events; repeating a batch is harmless. Raises as `lease`."""
        return self._post("/events", EventBatch(token=token, events=tuple(events)), EventReceipt)

    def report(self, report: AttemptReport) -> AttemptReceipt:
        """Ends the attempt; raises as `lease`."""
        return self._post(":outcome", report, AttemptReceipt)

    def _post(self, path: str, body: BaseModel, answer: type[Answer]) -> Answer:
        try:
            response = self._http.post(
                self._attempt + path,
                content=body.model_dump_json(),
                headers={"Content-Type": "application/json"},
            )
        except httpx.TransportError as error:
            raise UnreachableError(f"{type(error).__name__}: {error}") from error
        _check(response)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise UnreachableError(f"not an answer of the control plane: {error}") from error


def _check(response: httpx.Response) -> None:
    """Sorts an answer that is no success; a wrong key may be repaired, so it is tried again."""
    status = response.status_code
    if response.is_success:
        return
    text = f"HTTP {status}: {response.text[:500]}"
    if status == httpx.codes.CONFLICT:
        raise LeaseLostError(text)
    if status >= 500 or status in {401, 403, 408, 425, 429} or response.is_redirect:
        raise UnreachableError(text)
    raise RefusedError(text)
