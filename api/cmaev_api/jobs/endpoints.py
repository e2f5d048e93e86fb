"""`/v1/jobs`."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Response, status

from cmaev_api.auth import require_admin
from cmaev_api.deps import DispatcherDep, ReadSession, SettingsDep, WriteSession
from cmaev_api.errors import PROBLEM_RESPONSES
from cmaev_api.jobs.schemas import JobPage, JobRead
from cmaev_api.jobs.service import JobService
from cmaev_spec.job import JobSpec
from cmaev_spec.state import JobState

router = APIRouter(
    prefix="/v1/jobs", tags=["jobs"], dependencies=[require_admin], responses=PROBLEM_RESPONSES
)


def reading_service(
    session: ReadSession, dispatcher: DispatcherDep, settings: SettingsDep
) -> JobService:
    """Jobs to look at."""
    return JobService(session, dispatcher=dispatcher, settings=settings)


def writing_service(
    session: WriteSession, dispatcher: DispatcherDep, settings: SettingsDep
) -> JobService:
    """Jobs in the request's transaction."""
    return JobService(session, dispatcher=dispatcher, settings=settings)


Reading = Annotated[JobService, Depends(reading_service)]
Writing = Annotated[JobService, Depends(writing_service)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="a repeat with the same key and the same body answers with the same job",
    ),
]
Kind = Literal["pretrain", "finetune", "probe", "evaluate", "export"]


@router.post("", status_code=status.HTTP_201_CREATED)
def submit(
    spec: JobSpec, service: Writing, response: Response, key: IdempotencyKey = None
) -> JobRead:
    """Submit a job."""
    return _created(service.submit(spec, idempotency_key=key), response)


@router.get("")
def list_jobs(
    service: Reading,
    state: Annotated[list[JobState] | None, Query(description="only these states")] = None,
    kind: Annotated[list[Kind] | None, Query(description="only these kinds")] = None,
    cursor: Annotated[str | None, Query(max_length=18)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobPage:
    """List jobs, newest first."""
    return service.page(states=state or (), kinds=kind or (), cursor=cursor, limit=limit)


@router.get("/{job_id}")
def read_job(job_id: str, service: Reading) -> JobRead:
    """Look at a job."""
    return service.read(job_id)


@router.post("/{job_id}:cancel")
def cancel_job(job_id: str, service: Writing) -> JobRead:
    """Cancel a job; a running one stops within moments."""
    return service.cancel(job_id)


@router.post("/{job_id}:pause")
def pause_job(job_id: str, service: Writing) -> JobRead:
    """Pause a job; a running one saves a checkpoint first."""
    return service.pause(job_id)


@router.post("/{job_id}:resume")
def resume_job(job_id: str, service: Writing) -> JobRead:
    """Resume a paused job from its last checkpoint."""
    return service.resume(job_id)


@router.post("/{job_id}:retry", status_code=status.HTTP_201_CREATED)
def retry_job(
    job_id: str, service: Writing, response: Response, key: IdempotencyKey = None
) -> JobRead:
    """Submit a finished job again, as a new job with this one as its parent."""
    return _created(service.retry(job_id, idempotency_key=key), response)


def _created(result: tuple[JobRead, bool], response: Response) -> JobRead:
    job, new = result
    response.status_code = status.HTTP_201_CREATED if new else status.HTTP_200_OK
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job
