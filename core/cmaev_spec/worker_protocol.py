"""What a worker and the control plane say to each other over HTTP.

```
POST /v1/attempts/{id}:lease      LeaseRequest  -> LeaseGrant            409: leased, or over
POST /v1/attempts/{id}:heartbeat  Heartbeat     -> HeartbeatReply        409: the lease is lost
POST /v1/attempts/{id}/events     EventBatch    -> EventReceipt          409: the lease is lost
POST /v1/attempts/{id}:outcome    AttemptReport -> AttemptReceipt        409: the lease is lost
```
`token` is the fencing token of the lease: it grows with every lease of a job, and a request with
an old one is refused, so that two workers never speak for one job.
"""

from typing import Annotated, Literal

from pydantic import Field

from cmaev_spec.base import Spec
from cmaev_spec.events import RunEvent
from cmaev_spec.job import JobSpec
from cmaev_spec.state import JobState

DesiredState = Literal["run", "pause", "cancel"]
MAX_INT = 2**53
"""Whole numbers up to here are the same in every JSON parser and fit every database."""

Token = Annotated[int, Field(ge=0, le=MAX_INT, description="fencing token of a lease")]


class LeaseRequest(Spec):
    """A worker offers to run an attempt."""

    worker: str = Field(max_length=300, description="name of the worker, for people")
    host: str = Field(max_length=300)
    pid: int = Field(ge=0, lt=2**31)


class LeaseGrant(Spec):
    """The worker may run the attempt until the lease ends; each heartbeat renews it."""

    attempt_id: str
    job_id: str
    number: int = Field(description="1 for the first attempt of a job")
    token: Token
    spec: JobSpec
    lease_seconds: float
    heartbeat_seconds: float
    events_offset: int = Field(0, ge=0, description="bytes of events.jsonl that are stored already")


class Heartbeat(Spec):
    """The holder of the lease is alive."""

    token: Token


class HeartbeatReply(Spec):
    """What the control plane wants of the run."""

    desired: DesiredState


class PositionedEvent(Spec):
    """An event and where its line ends in `events.jsonl`; the position makes repeats harmless."""

    end_offset: int = Field(ge=1, le=MAX_INT)
    event: RunEvent


class EventBatch(Spec):
    """Events in order."""

    token: Token
    events: tuple[PositionedEvent, ...] = Field(max_length=1000)


class EventReceipt(Spec):
    """How far the control plane has stored the events file."""

    events_offset: int


class AttemptReport(Spec):
    """How an attempt ended.

    `succeeded`, `failed` end the job; `stopped` (a checkpoint was saved on request) ends a pause or
    a cancel, and otherwise queues the job again; `crashed` (killed, out of memory, host gone) is
    tried again up to the limit of attempts.
    """

    token: Token
    result: Literal["succeeded", "failed", "stopped", "crashed"]
    exit_code: int | None = Field(ge=-(2**31), lt=2**31)
    error: str | None = None


class AttemptReceipt(Spec):
    """The state that the report led to."""

    state: JobState
