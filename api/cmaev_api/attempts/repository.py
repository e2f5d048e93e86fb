"""Queries on attempts and events; a lease is only taken, renewed or ended by compare-and-set."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from cmaev_api.tables import Attempt, Event, utc_now

QUEUED, LEASED, ENDED = "queued", "leased", "ended"
INTERRUPTED = ("crashed", "lost")
"""Results that count against the limit of attempts."""


class AttemptRepository:
    """Attempts in one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, attempt: Attempt) -> None:
        """Inserts an attempt."""
        self._session.add(attempt)
        self._session.flush()

    def get(self, attempt_id: str) -> Attempt | None:
        """An attempt by its id."""
        return self._session.get(Attempt, attempt_id)

    def refresh(self, attempt: Attempt) -> None:
        """Reads an attempt again."""
        self._session.refresh(attempt)

    def of_job(self, job_id: str) -> list[Attempt]:
        """The attempts of a job, first to last."""
        query = select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)
        return list(self._session.scalars(query))

    def count(self, job_id: str) -> int:
        """How many attempts a job has had."""
        query = select(func.count()).where(Attempt.job_id == job_id)
        return self._session.scalar(query) or 0

    def interruptions(self, job_id: str) -> int:
        """How many attempts of a job crashed or lost their lease."""
        query = select(func.count()).where(
            Attempt.job_id == job_id, Attempt.result.in_(INTERRUPTED)
        )
        return self._session.scalar(query) or 0

    def count_leased(self) -> int:
        """How many attempts a worker holds."""
        return self._session.scalar(select(func.count()).where(Attempt.state == LEASED)) or 0

    def take(self, attempt: Attempt, **values: Any) -> bool:
        """Leases a queued attempt; returns whether it was still there to take."""
        return self._change(attempt, Attempt.state == QUEUED, state=LEASED, **values)

    def renew(self, attempt: Attempt, *, token: int, expires_at: datetime) -> bool:
        """Extends a lease; returns whether `token` still holds it."""
        return self._change(
            attempt,
            Attempt.state == LEASED,
            Attempt.token == token,
            lease_expires_at=expires_at,
        )

    def end(self, attempt: Attempt, *, token: int, result: str, **values: Any) -> bool:
        """Ends a leased attempt; returns whether `token` still held it."""
        return self._change(
            attempt,
            Attempt.state == LEASED,
            Attempt.token == token,
            state=ENDED,
            result=result,
            ended_at=utc_now(),
            lease_expires_at=None,
            **values,
        )

    def end_expired(self, attempt: Attempt, *, now: datetime, error: str) -> bool:
        """Ends an attempt whose lease ran out; returns whether it had not been renewed since."""
        return self._change(
            attempt,
            Attempt.state == LEASED,
            Attempt.lease_expires_at < now,
            state=ENDED,
            result="lost",
            error=error,
            ended_at=now,
        )

    def withdraw(self, job_id: str) -> None:
        """Ends the attempts of a job that nobody has taken yet."""
        self._session.connection().execute(
            update(Attempt)
            .where(Attempt.job_id == job_id, Attempt.state == QUEUED)
            .values(state=ENDED, result="withdrawn", ended_at=utc_now())
        )
        self._session.expire_all()

    def expired(self, now: datetime) -> list[str]:
        """Ids of the attempts whose lease ran out."""
        query = select(Attempt.id).where(Attempt.state == LEASED, Attempt.lease_expires_at < now)
        return list(self._session.scalars(query))

    def due_for_dispatch(self, now: datetime) -> list[Attempt]:
        """Queued attempts that no worker took in time, oldest first."""
        query = select(Attempt).where(Attempt.state == QUEUED, Attempt.dispatch_after < now)
        return list(self._session.scalars(query.order_by(Attempt.created_at)))

    def sent_again(self, attempt: Attempt, *, next_at: datetime) -> None:
        """Notes that an attempt was sent to the workers again, and when to do so next."""
        self._session.connection().execute(
            update(Attempt)
            .where(Attempt.id == attempt.id)
            .values(dispatches=Attempt.dispatches + 1, dispatch_after=next_at)
        )

    def add_events(self, job_id: str, events: Iterable[tuple[int, str, dict[str, Any]]]) -> None:
        """Stores events as (end_offset, type, data)."""
        rows = [
            {"job_id": job_id, "end_offset": end, "type": type_, "data": data}
            for end, type_, data in events
        ]
        if rows:
            self._session.execute(insert(Event), rows)

    def _change(self, attempt: Attempt, *conditions: Any, **values: Any) -> bool:
        result = self._session.connection().execute(
            update(Attempt).where(Attempt.id == attempt.id, *conditions).values(**values)
        )
        self._session.refresh(attempt)
        return result.rowcount == 1
