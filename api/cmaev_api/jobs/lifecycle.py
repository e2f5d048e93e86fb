"""How a job moves from state to state; the only code that changes one.

Endpoints, the worker protocol and the sweeper all come through here. Each move is checked against
the table of cmaev_spec.state and made by compare-and-set, in the caller's transaction.
"""

import secrets
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy.orm import Session

from cmaev_api.attempts.repository import QUEUED, AttemptRepository
from cmaev_api.db import after_commit
from cmaev_api.dispatch import Dispatcher
from cmaev_api.errors import conflict
from cmaev_api.jobs.repository import JobRepository
from cmaev_api.settings import Settings
from cmaev_api.tables import Attempt, Job, utc_now
from cmaev_spec.state import JobState, advance

log = structlog.get_logger(__name__)


class Lifecycle:
    """Moves jobs within one transaction."""

    def __init__(self, session: Session, *, dispatcher: Dispatcher, settings: Settings) -> None:
        self._session = session
        self._dispatcher = dispatcher
        self._settings = settings
        self._jobs = JobRepository(session)
        self._attempts = AttemptRepository(session)

    def move(self, job: Job, target: JobState, **values: Any) -> None:
        """Changes the state of a job.

        Raises:
            TransitionError: if the table of states does not allow it.
            ProblemError: 409 if somebody else changed the job at the same moment.
        """
        advance(JobState(job.state), target)
        if target.terminal:
            values["finished_at"] = utc_now()
        if not self._jobs.compare_and_set(job, target, **values):
            raise conflict(
                f"job {job.id} changed at the same moment and is {job.state} now",
                field="state",
                fix="look at the job and try again",
            )
        log.info("job_moved", job=job.id, state=target.value)
        if target.terminal:
            for waiting_id in self._jobs.waiting_for(job.id):
                self.wake(waiting_id)

    def enqueue(self, job: Job) -> None:
        """Queues a job that has no attempt under way, and tells the workers after the commit."""
        if job.state != JobState.QUEUED:
            self.move(job, JobState.QUEUED, desired="run")
        now = utc_now()
        attempt = Attempt(
            id=secrets.token_hex(8),
            job_id=job.id,
            number=self._attempts.count(job.id) + 1,
            state=QUEUED,
            created_at=now,
            dispatch_after=now + timedelta(seconds=self._settings.redispatch_seconds),
        )
        self._attempts.add(attempt)
        after_commit(self._session, partial(self._dispatcher.send, attempt.id))

    def wake(self, job_id: str) -> None:
        """Queues a waiting job whose reference has succeeded, fails it if that cannot happen."""
        job = self._jobs.get(job_id, lock=True)
        if job is None or job.state != JobState.WAITING or job.reference_id is None:
            return
        reference = self._jobs.get(job.reference_id)
        assert reference is not None, "a foreign key keeps it there"
        if reference.state == JobState.SUCCEEDED:
            self.enqueue(job)
        elif JobState(reference.state).terminal:
            self.move(
                job,
                JobState.FAILED,
                error=f"job {reference.id}, which this one starts from, is {reference.state}",
            )

    def restart(self, job: Job) -> None:
        """Queues a paused job again, or lets it wait for the job it starts from."""
        reference = self._jobs.get(job.reference_id) if job.reference_id else None
        if reference is None or reference.state == JobState.SUCCEEDED:
            self.enqueue(job)
            return
        self.move(job, JobState.WAITING, desired="run")
        self.wake(job.id)

    def stopped(self, job: Job) -> None:
        """The run saved a checkpoint and ended on request: ours, or its worker's."""
        if job.state == JobState.CANCELLING:
            self.move(job, JobState.CANCELLED)
        elif job.state == JobState.PAUSING:
            self.move(job, JobState.PAUSED)
        else:
            self.enqueue(job)

    def interrupted(self, job: Job, *, error: str) -> None:
        """The run crashed or its lease was lost: try again, unless that happened too often."""
        count = self._attempts.interruptions(job.id)
        if (
            job.state in {JobState.CANCELLING, JobState.PAUSING}
            or count < self._settings.max_attempts
        ):
            self.stopped(job)
            return
        self.move(
            job,
            JobState.FAILED,
            error=f"given up after {count} interrupted attempts; the last: {error}",
        )
