"""Finding what got lost: leases without a heartbeat, tasks without a taker, jobs without a wake-up.

Every step is a compare-and-set in a transaction of its own, so several replicas may sweep at once.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from cmaev_api.attempts.repository import AttemptRepository
from cmaev_api.attempts.service import AttemptService
from cmaev_api.db import Database
from cmaev_api.dispatch import Dispatcher
from cmaev_api.jobs.lifecycle import Lifecycle
from cmaev_api.jobs.repository import JobRepository
from cmaev_api.metrics import Metrics
from cmaev_api.settings import Settings
from cmaev_api.tables import Attempt, utc_now
from cmaev_spec.state import JobState

MAX_DOUBLINGS = 6

log = structlog.get_logger(__name__)


class Sweeper:
    """One round of the sweep, to be repeated.

    A lease may only be called lost by a sweeper that has watched for a whole lease: after a start,
    an outage of the database or a suspended machine the workers get that long to be heard again.
    """

    def __init__(
        self,
        database: Database,
        dispatcher: Dispatcher,
        *,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._last_round = float("-inf")
        self._watching_since = float("inf")

    def sweep(self) -> None:
        """Does all that is due."""
        now = self._clock()
        if now - self._last_round > self._settings.lease_seconds:
            self._watching_since = now
        if now - self._watching_since > self._settings.lease_seconds:
            self.expire_leases()
        self.wake_jobs()
        self.dispatch_again()
        self._last_round = now

    def expire_leases(self) -> None:
        """Takes attempts from workers that were not heard of."""
        now = utc_now()
        with self._database.read() as session:
            expired = AttemptRepository(session).expired(now)
        for attempt_id in expired:
            with self._database.write() as session:
                service = AttemptService(
                    session, dispatcher=self._dispatcher, settings=self._settings
                )
                if service.expire(attempt_id, now=now):
                    self._metrics.lost_leases.inc()
                    log.warning("lease_lost", attempt=attempt_id)

    def wake_jobs(self) -> None:
        """Moves waiting jobs on whose reference has ended; usually that happened at its end."""
        with self._database.read() as session:
            waiting = JobRepository(session).ids_in_state(JobState.WAITING)
        for job_id in waiting:
            with self._database.write() as session:
                Lifecycle(session, dispatcher=self._dispatcher, settings=self._settings).wake(
                    job_id
                )

    def dispatch_again(self) -> None:
        """Sends attempts again that no worker took; each waits twice as long as before."""
        with self._database.read() as session:
            due = AttemptRepository(session).due_for_dispatch(utc_now())
        for attempt in due:
            if not self._dispatcher.send(attempt.id):
                return  # the broker is away: all stay due
            with self._database.write() as session:
                AttemptRepository(session).sent_again(attempt, next_at=self._next_dispatch(attempt))
            self._metrics.redispatched.inc()

    def _next_dispatch(self, attempt: Attempt) -> datetime:
        doublings = min(attempt.dispatches + 1, MAX_DOUBLINGS)
        return utc_now() + timedelta(seconds=self._settings.redispatch_seconds * 2**doublings)
