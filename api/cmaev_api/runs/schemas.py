"""What the API tells about the run of a job."""

from typing import Any

from pydantic import BaseModel, Field


class StoredEvent(BaseModel):
    """An event and its place in the run's `events.jsonl`."""

    end_offset: int
    event: dict[str, Any] = Field(description="an event of cmaev_spec.events")


class EventPage(BaseModel):
    """Events in the order they happened."""

    items: list[StoredEvent]
    next_after: int = Field(description="pass it as `after` for what comes next")


class MetricRows(BaseModel):
    """Rows of `metrics.jsonl`, in order."""

    items: list[dict[str, Any]]
    next_after: int = Field(description="pass it as `after` for what comes next")


class Artifact(BaseModel):
    """A file that a run announced."""

    kind: str
    path: str = Field(description="relative to the run directory")
    bytes: int
    sha256: str
    exists: bool = Field(description="whether it is still there to fetch")
    url: str = Field(description="where to fetch it")


class ArtifactList(BaseModel):
    """The files that a run announced, first to last."""

    items: list[Artifact]
