"""Queries on jobs; a state only changes by compare-and-set."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from cmaev_api.tables import Job, utc_now
from cmaev_spec.state import JobState


class JobRepository:
    """Jobs in one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, job: Job) -> None:
        """Inserts a job."""
        self._session.add(job)
        self._session.flush()

    def get(self, job_id: str, *, lock: bool = False) -> Job | None:
        """A job by its id; `lock` keeps others from changing it until the transaction ends."""
        query = select(Job).where(Job.id == job_id)
        if lock:  # SQLite ignores it: there the writing transaction holds the one lock
            query = query.with_for_update().execution_options(populate_existing=True)
        return self._session.scalar(query)

    def by_idempotency_key(self, key: str) -> Job | None:
        """The job that a client submitted under a key."""
        return self._session.scalar(select(Job).where(Job.idempotency_key == key))

    def page(
        self, *, states: Sequence[str], kinds: Sequence[str], before: int | None, limit: int
    ) -> list[Job]:
        """Jobs, newest first, older than the sequence number `before`."""
        query = select(Job).order_by(Job.sequence.desc()).limit(limit)
        if states:
            query = query.where(Job.state.in_(states))
        if kinds:
            query = query.where(Job.kind.in_(kinds))
        if before is not None:
            query = query.where(Job.sequence < before)
        return list(self._session.scalars(query))

    def ids_in_state(self, state: JobState) -> list[str]:
        """Ids of the jobs in a state, oldest first."""
        query = select(Job.id).where(Job.state == state.value).order_by(Job.sequence)
        return list(self._session.scalars(query))

    def waiting_for(self, job_id: str) -> list[str]:
        """Ids of the jobs that wait for a job."""
        query = select(Job.id).where(
            Job.reference_id == job_id, Job.state == JobState.WAITING.value
        )
        return list(self._session.scalars(query.order_by(Job.sequence)))

    def compare_and_set(self, job: Job, state: JobState, **values: Any) -> bool:
        """Moves a job to `state` if it is still as `job` says; returns whether it was."""
        result = self._session.connection().execute(
            update(Job)
            .where(Job.id == job.id, Job.state == job.state, Job.token == job.token)
            .values(state=state.value, updated_at=utc_now(), **values)
        )
        self._session.refresh(job)
        return result.rowcount == 1
