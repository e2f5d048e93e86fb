"""`/v1/jobs/{id}/{events,logs,metrics,artifacts}`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import FileResponse, PlainTextResponse

from cmaev_api.auth import require_admin
from cmaev_api.deps import ReadSession, SettingsDep
from cmaev_api.errors import PROBLEM_RESPONSES
from cmaev_api.runs.schemas import ArtifactList, EventPage, MetricRows
from cmaev_api.runs.service import RunService

MAX_INT = 2**53
INLINE = {".png": "image/png", ".json": "application/json", ".txt": "text/plain; charset=utf-8"}

router = APIRouter(
    prefix="/v1/jobs/{job_id}",
    tags=["runs"],
    dependencies=[require_admin],
    responses=PROBLEM_RESPONSES,
)


def run_service(session: ReadSession, settings: SettingsDep) -> RunService:
    """Runs to look at."""
    return RunService(session, settings=settings)


Service = Annotated[RunService, Depends(run_service)]
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/events")
def read_events(
    job_id: str,
    service: Service,
    after: Annotated[int, Query(ge=0, le=MAX_INT, description="`next_after` before")] = 0,
    limit: Limit = 200,
) -> EventPage:
    """Read what the run reported, in order."""
    return service.events(job_id, after=after, limit=limit)


@router.get("/logs", response_class=PlainTextResponse)
def read_log(
    job_id: str,
    service: Service,
    offset: Annotated[int | None, Query(ge=0, le=MAX_INT, description="byte to start at")] = None,
    tail: Annotated[int, Query(ge=1, le=1 << 20, description="at most so many bytes")] = 1 << 16,
) -> PlainTextResponse:
    """Read the run's log: its end, or on from `offset`; `X-Next-Offset` says where it goes on."""
    part = service.log(job_id, offset=offset, tail=tail)
    text = part.data.decode(errors="replace")
    return PlainTextResponse(text, headers={"X-Next-Offset": str(part.end)})


@router.get("/metrics")
def read_metrics(
    job_id: str,
    service: Service,
    after: Annotated[int, Query(ge=0, description="rows to leave out at the start")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> MetricRows:
    """Read the run's metrics, one row a logged step."""
    return service.metrics(job_id, after=after, limit=limit)


@router.get("/artifacts")
def list_artifacts(job_id: str, service: Service) -> ArtifactList:
    """List the files that the run announced."""
    return service.artifacts(job_id)


@router.get("/artifacts/{path:path}", response_class=FileResponse)
def fetch_artifact(job_id: str, path: str, service: Service) -> FileResponse:
    """Fetch a file of the run directory."""
    file = service.file(job_id, path)
    return FileResponse(
        file,
        media_type=INLINE.get(file.suffix, "application/octet-stream"),
        filename=file.name,
        content_disposition_type="inline" if file.suffix in INLINE else "attachment",
        headers={"X-Content-Type-Options": "nosniff"},
    )
