"""A model that is served, and the backends that can serve it."""

import hashlib
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field

from cmaev_spec.base import Spec
from cmaev_spec.serving_protocol import Classification

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
VERSION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
ModelState = Literal["loading", "ready", "failed"]


class Deployment(Spec):
    """One version of one model, with the hash of its archive."""

    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def id(self) -> str:
        """A name that no other version shares, fit for files and for TorchServe."""
        text = "\n".join((self.name, self.version, self.sha256))
        return f"{self.name}.{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class Backend(Protocol):
    """What runs the models. Its methods raise ServingError with what the client may know."""

    @property
    def obstacle(self) -> str | None:
        """Why no model can be served at the moment; None if nothing is in the way."""
        ...

    async def start(self) -> None:
        """Begins to come up; returns once models can be loaded."""
        ...

    async def stop(self) -> None:
        """Ends every process that it started."""
        ...

    async def load(self, deployment: Deployment, archive: Path) -> None:
        """Loads a verified archive; returns when it can classify."""
        ...

    async def unload(self, deployment: Deployment) -> None:
        """Stops serving it; harmless if it is not served."""
        ...

    async def state(self, deployment: Deployment) -> tuple[ModelState, str]:
        """Whether a loaded deployment can classify now, and why not."""
        ...

    async def classify(self, deployment: Deployment, video: Path, top_k: int) -> Classification:
        """Classifies a file of the spool folder."""
        ...
