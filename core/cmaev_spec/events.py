"""What a run reports: one JSON object a line in `events.jsonl`, in the order things happened."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from cmaev_spec.base import Spec


class EventBase(Spec):
    """Every event carries the wall-clock time it was written at.

    A report is not refused for a number that is none: what else it says is worth having.
    """

    model_config = ConfigDict(allow_inf_nan=True)

    time: float = Field(description="seconds since 1970, UTC")


class StartedEvent(EventBase):
    """A runner began, from the start or from a checkpoint."""

    type: Literal["started"] = "started"
    resumed_step: int = Field(0, ge=0, description="step of the checkpoint it resumes from")
    total_steps: int = Field(0, ge=0, description="0 where the work is not counted in steps")
    device: str = "cpu"
    message: str = ""


class ProgressEvent(EventBase):
    """How far the run is."""

    type: Literal["progress"] = "progress"
    stage: str = Field(description="what is going on, e.g. `pretrain`, `evaluate`, `parity`")
    step: int = Field(ge=0)
    total_steps: int = Field(ge=0)
    epoch: float = Field(0.0, ge=0.0)
    clips_per_second: float | None = None
    eta_seconds: float | None = None


class MetricEvent(EventBase):
    """Named values at a step; the same numbers stand in `metrics.jsonl`."""

    type: Literal["metric"] = "metric"
    step: int = Field(ge=0)
    values: dict[str, float]


class ArtifactEvent(EventBase):
    """A file that is complete and worth fetching."""

    type: Literal["artifact"] = "artifact"
    kind: Literal["checkpoint", "picture", "predictions", "onnx", "archive", "metrics", "other"]
    path: str = Field(description="relative to the run directory")
    bytes: int = Field(ge=0)
    sha256: str


class WarningEvent(EventBase):
    """Something a person should know about."""

    type: Literal["warning"] = "warning"
    message: str


class OutcomeEvent(EventBase):
    """The last word of a runner."""

    type: Literal["outcome"] = "outcome"
    status: Literal["succeeded", "failed", "stopped"] = Field(
        description="stopped: a checkpoint was saved on request, the run can go on"
    )
    exit_code: int
    error: str | None = None
    summary: dict[str, float] = Field({}, description="the figures of a finished run")


RunEvent = Annotated[
    StartedEvent | ProgressEvent | MetricEvent | ArtifactEvent | WarningEvent | OutcomeEvent,
    Field(discriminator="type"),
]
EVENT_ADAPTER: TypeAdapter[RunEvent] = TypeAdapter(RunEvent)
