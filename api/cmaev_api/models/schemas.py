"""What the API takes and tells about deployed models."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MODEL_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class DeployRequest(BaseModel):
    """Which export to serve, and under which name."""

    model_config = ConfigDict(extra="forbid")

    job: str = Field(description="id of a succeeded export job")
    name: str | None = Field(None, pattern=MODEL_NAME, description="unset: the export's model_name")


class Ancestor(BaseModel):
    """A job in the history of a model."""

    job_id: str
    kind: str
    name: str | None
    content_hash: str


class VersionRead(BaseModel):
    """One deployed archive."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    version: int
    active: bool = Field(description="whether this is the version to serve")
    status: Literal["pending", "loading", "ready", "failed"] = Field(
        description="pending: the serving agent has not taken it yet and is asked again"
    )
    detail: str
    sha256: str = Field(description="hash of the archive")
    job_id: str = Field(description="the export job")
    created_at: datetime
    updated_at: datetime


class ModelRead(BaseModel):
    """A model by name: the version that is served, how it came about, and all versions."""

    name: str
    serving: VersionRead
    provenance: list[Ancestor] = Field(description="export job first, back to the pretraining")
    versions: list[VersionRead] = Field(description="newest first")


class ModelList(BaseModel):
    """The versions that are served, by name."""

    items: list[VersionRead]
