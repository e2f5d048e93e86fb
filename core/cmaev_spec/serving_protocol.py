"""What the gateway and the serving agent say to each other over HTTP, and the answer to a user.

```
GET    /healthz                          the agent lives (no token needed)
GET    /readyz                           AgentStatus; 503 until the backend is up
GET    /models                           list of ServedModel
PUT    /models/{name}/versions/{version} body: the .mar, header X-Content-SHA256 -> ServedModel
DELETE /models/{name}                    stops serving it
POST   /models/{name}:classify?top_k=5   body: the bytes of a video -> Classification
```
All but /healthz ask for `Authorization: Bearer <agent token>`. Errors are RFC 9457 problems.
"""

from typing import Literal

from pydantic import Field

from cmaev_spec.base import Spec


class AgentStatus(Spec):
    """State of a serving agent."""

    backend: Literal["torchserve", "inprocess"]
    ready: bool
    detail: str = ""


class ServedModel(Spec):
    """A model that an agent serves."""

    name: str
    version: str
    sha256: str = Field(description="hash of the archive")
    status: Literal["loading", "ready", "failed"]
    detail: str = ""


class Prediction(Spec):
    """One label and its probability."""

    label: str
    index: int
    probability: float = Field(ge=0.0, le=1.0)


class ClipTimes(Spec):
    """The frames that one view looked at."""

    frames: tuple[int, ...]
    seconds: tuple[float, ...]


class Classification(Spec):
    """The answer to a video."""

    model: str
    version: str
    predictions: tuple[Prediction, ...] = Field(description="most probable first")
    views: tuple[ClipTimes, ...] = Field(description="which frames the answer rests on")
    video: dict[str, float | int | str] = Field(
        description="what was decoded: frames, width, height, seconds, codec"
    )
    milliseconds: dict[str, float] = Field(description="time of decode and inference")


class Problem(Spec):
    """RFC 9457 problem details, with the field at fault and the fix."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None
    fix: str | None = None
    errors: tuple[dict[str, str], ...] = ()
