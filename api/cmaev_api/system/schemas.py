"""What the control plane tells about itself."""

from typing import Literal

from pydantic import BaseModel, Field

from cmaev_spec.serving_protocol import AgentStatus


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether the parts that every request needs answer."""

    ready: bool
    database: Literal["ok", "unavailable"]
    broker: Literal["ok", "unavailable"]


class SystemStatus(BaseModel):
    """The parts that the control plane works with, for people who look for what is wrong."""

    version: str
    readiness: Readiness
    broker_detail: str | None = Field(description="why the broker does not answer")
    serving: AgentStatus | None = Field(description="the serving agent; null if it does not answer")
    serving_detail: str | None = Field(description="why the serving agent does not answer")
    runs_dir: str
    free_bytes: int = Field(description="free disk where the runs are written")
    workers: int = Field(description="workers that answered within a second")
    leased_attempts: int = Field(description="attempts that a worker holds right now")
