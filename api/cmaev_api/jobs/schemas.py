"""What the API tells about jobs."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cmaev_spec.events import ProgressEvent
from cmaev_spec.state import JobState


class AttemptRead(BaseModel):
    """One try at running a job."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    number: int = Field(description="1 for the first attempt of a job")
    state: str = Field(description="queued, leased or ended")
    worker: str | None = Field(description="who holds or held the lease")
    host: str | None
    pid: int | None
    result: str | None = Field(
        description="succeeded, failed, stopped, crashed, lost (no heartbeat) or withdrawn"
    )
    exit_code: int | None
    error: str | None
    created_at: datetime
    leased_at: datetime | None
    ended_at: datetime | None


class JobSummary(BaseModel):
    """A job in a list."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    kind: str
    name: str | None
    state: JobState
    content_hash: str = Field(description="SHA-256 of the resolved specification")
    parent_id: str | None = Field(description="the job that this one retries")
    reference_id: str | None = Field(description="the job that this one starts from")
    error: str | None
    progress: ProgressEvent | None = Field(description="the newest progress event")
    metrics: dict[str, float | None] | None = Field(description="the newest value of each metric")
    summary: dict[str, float | None] | None = Field(description="the figures of a finished run")
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobRead(JobSummary):
    """A job with everything that is known of it."""

    spec: dict[str, Any] = Field(description="the specification with every default resolved")
    attempts: list[AttemptRead]


class JobPage(BaseModel):
    """Some jobs, newest first."""

    items: list[JobSummary]
    next_cursor: str | None = Field(description="pass it as `cursor` for the next page")
