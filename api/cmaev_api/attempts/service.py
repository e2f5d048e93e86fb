"""The worker protocol: who may run an attempt, what it reports, how it ends."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NoReturn

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from cmaev_api.attempts.repository import LEASED, AttemptRepository
from cmaev_api.dispatch import Dispatcher
from cmaev_api.errors import conflict, not_found
from cmaev_api.jobs.lifecycle import Lifecycle
from cmaev_api.jobs.repository import JobRepository
from cmaev_api.settings import Settings
from cmaev_api.tables import Attempt, Job, utc_now
from cmaev_spec.events import MetricEvent, OutcomeEvent, ProgressEvent, RunEvent
from cmaev_spec.job import parse_job
from cmaev_spec.state import JobState
from cmaev_spec.worker_protocol import (
    AttemptReceipt,
    AttemptReport,
    DesiredState,
    EventBatch,
    EventReceipt,
    Heartbeat,
    HeartbeatReply,
    LeaseGrant,
    LeaseRequest,
)

DESIRED: TypeAdapter[DesiredState] = TypeAdapter(DesiredState)


class AttemptService:
    """The worker protocol within one transaction."""

    def __init__(self, session: Session, *, dispatcher: Dispatcher, settings: Settings) -> None:
        self._settings = settings
        self._jobs = JobRepository(session)
        self._attempts = AttemptRepository(session)
        self._lifecycle = Lifecycle(session, dispatcher=dispatcher, settings=settings)

    def lease(self, attempt_id: str, request: LeaseRequest) -> LeaseGrant:
        """Gives an attempt to the one worker that comes first.

        Raises:
            ProblemError: 404 for an unknown attempt, 409 if it is taken or over.
        """
        attempt, job = self._load(attempt_id)
        token = job.token + 1
        taken = self._attempts.take(
            attempt,
            token=token,
            worker=request.worker,
            host=request.host,
            pid=request.pid,
            leased_at=utc_now(),
            lease_expires_at=self._lease_end(),
        )
        if not taken or job.state != JobState.QUEUED:
            raise conflict(
                f"attempt {attempt_id} is {_describe(attempt)}", fix="drop the task: it is a repeat"
            )
        self._lifecycle.move(
            job, JobState.STARTING, token=token, started_at=job.started_at or utc_now()
        )
        return LeaseGrant(
            attempt_id=attempt.id,
            job_id=job.id,
            number=attempt.number,
            token=token,
            spec=parse_job(job.spec),
            lease_seconds=self._settings.lease_seconds,
            heartbeat_seconds=self._settings.heartbeat_seconds,
            events_offset=job.events_offset,
        )

    def heartbeat(self, attempt_id: str, beat: Heartbeat) -> HeartbeatReply:
        """Renews a lease and tells what is wanted of the run.

        Raises:
            ProblemError: 404 for an unknown attempt, 409 if the lease is lost.
        """
        attempt, job = self._load(attempt_id)
        self._renew(attempt, beat.token)
        return HeartbeatReply(desired=DESIRED.validate_python(job.desired))

    def record(self, attempt_id: str, batch: EventBatch) -> EventReceipt:
        """Stores the events that are new; those before the stored offset are repeats.

        Raises:
            ProblemError: 404 for an unknown attempt, 409 if the lease is lost.
        """
        attempt, job = self._load(attempt_id)
        self._renew(attempt, batch.token)
        fresh = {
            item.end_offset: item.event
            for item in batch.events
            if item.end_offset > job.events_offset
        }
        self._attempts.add_events(
            job.id, ((end, event.type, _plain(event)) for end, event in fresh.items())
        )
        if fresh:
            values = _latest(job, fresh.values()) | {"events_offset": max(fresh)}
            starting = job.state == JobState.STARTING
            state = JobState.RUNNING if starting else JobState(job.state)
            changed = self._jobs.compare_and_set(job, state, **values)
            assert changed, "the job is locked"
        return EventReceipt(events_offset=job.events_offset)

    def report(self, attempt_id: str, report: AttemptReport) -> AttemptReceipt:
        """Ends an attempt; a repeat of the same report changes nothing.

        Raises:
            ProblemError: 404 for an unknown attempt, 409 if the lease is lost.
        """
        attempt, job = self._load(attempt_id)
        if (attempt.token, attempt.result) == (report.token, report.result):
            return AttemptReceipt(state=JobState(job.state))
        # the tail of a log may hold NUL, which PostgreSQL refuses
        error = None if report.error is None else report.error.replace("\0", "")
        ended = self._attempts.end(
            attempt,
            token=report.token,
            result=report.result,
            exit_code=report.exit_code,
            error=error,
        )
        if not ended:
            _lost(attempt)
        reason = error or f"the run ended with code {report.exit_code}"
        match report.result:
            case "succeeded":
                self._lifecycle.move(job, JobState.SUCCEEDED)
            case "failed":
                self._lifecycle.move(job, JobState.FAILED, error=reason)
            case "stopped":
                self._lifecycle.stopped(job)
            case "crashed":
                self._lifecycle.interrupted(job, error=reason)
        return AttemptReceipt(state=JobState(job.state))

    def expire(self, attempt_id: str, *, now: datetime) -> bool:
        """Takes an attempt from a worker that was not heard of; returns whether it had to."""
        attempt, job = self._load(attempt_id)
        error = f"worker {attempt.worker} was not heard of for {self._settings.lease_seconds:g} s"
        if not self._attempts.end_expired(attempt, now=now, error=error):
            return False
        self._lifecycle.interrupted(job, error=error)
        return True

    def _load(self, attempt_id: str) -> tuple[Attempt, Job]:
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            raise not_found(f"there is no attempt {attempt_id!r}")
        job = self._jobs.get(attempt.job_id, lock=True)
        assert job is not None, "a foreign key keeps it there"
        self._attempts.refresh(attempt)
        return attempt, job

    def _renew(self, attempt: Attempt, token: int) -> None:
        if not self._attempts.renew(attempt, token=token, expires_at=self._lease_end()):
            _lost(attempt)

    def _lease_end(self) -> datetime:
        return utc_now() + timedelta(seconds=self._settings.lease_seconds)


def _lost(attempt: Attempt) -> NoReturn:
    raise conflict(
        f"this lease is lost: attempt {attempt.id} is {_describe(attempt)}",
        field="token",
        fix="stop the run: another attempt may hold the job",
    )


def _describe(attempt: Attempt) -> str:
    if attempt.state == LEASED:
        return f"leased by {attempt.worker} with token {attempt.token}"
    return f"{attempt.state} ({attempt.result})" if attempt.result else attempt.state


def _plain(event: RunEvent) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(event.model_dump_json())  # NaN becomes null: JSON has none
    return plain


def _latest(job: Job, events: Iterable[RunEvent]) -> dict[str, Any]:
    """What the job's row shows of the newest events."""
    values: dict[str, Any] = {}
    for event in events:
        if isinstance(event, ProgressEvent):
            values["progress"] = _plain(event)
        elif isinstance(event, MetricEvent):
            known = values.get("metrics") or job.metrics or {}
            values["metrics"] = {**known, **_plain(event)["values"], "step": event.step}
        elif isinstance(event, OutcomeEvent):
            values["summary"] = _plain(event)["summary"]
    return values
