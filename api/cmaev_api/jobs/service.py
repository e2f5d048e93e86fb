"""What users do with jobs: submit, look, cancel, pause, resume, retry."""

import secrets
from collections.abc import Sequence

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cmaev_api.attempts.repository import AttemptRepository
from cmaev_api.dispatch import Dispatcher
from cmaev_api.errors import conflict, not_found, unprocessable
from cmaev_api.jobs.lifecycle import Lifecycle
from cmaev_api.jobs.preflight import check_paths, find_reference
from cmaev_api.jobs.repository import JobRepository
from cmaev_api.jobs.schemas import AttemptRead, JobPage, JobRead, JobSummary
from cmaev_api.settings import Settings
from cmaev_api.tables import Job, utc_now
from cmaev_spec.job import JobSpec, parse_job
from cmaev_spec.state import JobState
from cmaev_spec.wire import content_hash

IDLE = {JobState.WAITING, JobState.QUEUED, JobState.PAUSED}


class JobService:
    """Jobs within one transaction."""

    def __init__(self, session: Session, *, dispatcher: Dispatcher, settings: Settings) -> None:
        self._session = session
        self._settings = settings
        self._jobs = JobRepository(session)
        self._attempts = AttemptRepository(session)
        self._lifecycle = Lifecycle(session, dispatcher=dispatcher, settings=settings)

    def submit(
        self, spec: JobSpec, *, idempotency_key: str | None, parent_id: str | None = None
    ) -> tuple[JobRead, bool]:
        """Stores a job and queues it, or lets it wait for the job it starts from.

        Returns:
            The job, and whether it is new: a repeat with the same key and specification is not.

        Raises:
            ProblemError: 422 for a specification that cannot run, 409 for a key that stands for
                another specification.
        """
        if idempotency_key is not None:
            known = self._jobs.by_idempotency_key(idempotency_key)
            if known is not None:
                return self._repeat(known, spec), False
        reference = find_reference(spec, self._jobs)
        if self._settings.shared_files:
            check_paths(spec)
        job = _new_job(spec, key=idempotency_key, parent_id=parent_id, reference=reference)
        try:
            with self._session.begin_nested():
                self._jobs.add(job)
        except IntegrityError:
            known = self._jobs.by_idempotency_key(idempotency_key) if idempotency_key else None
            if known is None:
                raise
            return self._repeat(known, spec), False
        if job.state == JobState.QUEUED:
            self._lifecycle.enqueue(job)
        else:
            self._lifecycle.wake(job.id)
        return self.read(job.id), True

    def page(
        self, *, states: Sequence[JobState], kinds: Sequence[str], cursor: str | None, limit: int
    ) -> JobPage:
        """One page of the jobs, newest first.

        Raises:
            ProblemError: 422 for a cursor that no page gave.
        """
        if cursor is not None and not cursor.isdecimal():
            raise unprocessable([("cursor", "is not a cursor that a page gave")])
        jobs = self._jobs.page(
            states=[state.value for state in states],
            kinds=kinds,
            before=None if cursor is None else int(cursor),
            limit=limit + 1,
        )
        more = len(jobs) > limit
        return JobPage(
            items=[JobSummary.model_validate(job) for job in jobs[:limit]],
            next_cursor=str(jobs[limit - 1].sequence) if more else None,
        )

    def read(self, job_id: str) -> JobRead:
        """A job with its attempts.

        Raises:
            ProblemError: 404 if there is no such job.
        """
        job = self._get(job_id)
        summary = JobSummary.model_validate(job)
        attempts = [AttemptRead.model_validate(item) for item in self._attempts.of_job(job.id)]
        return JobRead(**dict(summary), spec=job.spec, attempts=attempts)

    def cancel(self, job_id: str) -> JobRead:
        """Ends a job: at once if it is idle, else as soon as its run has stopped."""
        job = self._get(job_id, lock=True)
        if job.state in IDLE:
            self._attempts.withdraw(job.id)
            self._lifecycle.move(job, JobState.CANCELLED)
        elif job.state != JobState.CANCELLING:
            self._lifecycle.move(job, JobState.CANCELLING, desired="cancel")
        return self.read(job_id)

    def pause(self, job_id: str) -> JobRead:
        """Sets a job aside: at once if it is idle, else after its run has saved a checkpoint."""
        job = self._get(job_id, lock=True)
        if job.state in {JobState.WAITING, JobState.QUEUED}:
            self._attempts.withdraw(job.id)
            self._lifecycle.move(job, JobState.PAUSED)
        elif job.state not in {JobState.PAUSING, JobState.PAUSED}:
            self._lifecycle.move(job, JobState.PAUSING, desired="pause")
        return self.read(job_id)

    def resume(self, job_id: str) -> JobRead:
        """Queues a paused job again; its run goes on from the last checkpoint."""
        job = self._get(job_id, lock=True)
        if job.state != JobState.PAUSED:
            raise conflict(
                f"job {job.id} is {job.state}; only a paused job can be resumed", field="state"
            )
        self._lifecycle.restart(job)
        return self.read(job_id)

    def retry(self, job_id: str, *, idempotency_key: str | None) -> tuple[JobRead, bool]:
        """Submits the specification of a finished job again, as a new job."""
        job = self._get(job_id)
        if not JobState(job.state).terminal:
            raise conflict(
                f"job {job.id} is {job.state}; only a finished job can be retried",
                field="state",
                fix="cancel it first, or resume it if it is paused",
            )
        return self.submit(parse_job(job.spec), idempotency_key=idempotency_key, parent_id=job.id)

    def _get(self, job_id: str, *, lock: bool = False) -> Job:
        job = self._jobs.get(job_id, lock=lock)
        if job is None:
            raise not_found(f"there is no job {job_id!r}", fix="`cmaev jobs list` shows the jobs")
        return job

    def _repeat(self, known: Job, spec: JobSpec) -> JobRead:
        if known.content_hash != content_hash(spec):
            raise conflict(
                f"this Idempotency-Key stands for job {known.id}, which has another specification",
                field="Idempotency-Key",
                fix="use a new key for a new job",
            )
        return self.read(known.id)


def _new_job(
    spec: JobSpec, *, key: str | None, parent_id: str | None, reference: Job | None
) -> Job:
    ready = reference is None or reference.state == JobState.SUCCEEDED
    now = utc_now()
    return Job(
        id=secrets.token_hex(8),
        kind=spec.kind,
        name=spec.name,
        spec=spec.model_dump(mode="json"),
        content_hash=content_hash(spec),
        parent_id=parent_id,
        reference_id=None if reference is None else reference.id,
        idempotency_key=key,
        state=(JobState.QUEUED if ready else JobState.WAITING).value,
        desired="run",
        token=0,
        events_offset=0,
        created_at=now,
        updated_at=now,
    )
