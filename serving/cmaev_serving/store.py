"""What an agent serves, on disk, so that it comes back after a crash.

```
models.json      which version of which model is served
models/<id>.mar  its archive
spool/           bodies of requests that are being answered
```
`models.json` is replaced in one step and last, so a file that it does not name is a leftover.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cmaev_serving.deployment import Deployment
from cmaev_spec.base import Spec
from cmaev_spec.files import sync_directory, write_atomic


class _Registry(Spec):
    schema_version: int = 1
    models: tuple[Deployment, ...] = ()


class ModelStore:
    """The state folder of one agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        self.spool = folder / "spool"
        self._registry = folder / "models.json"

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Holds the folder for this process and clears what a crash left in it.

        Raises:
            ValueError: if another agent uses the folder.
        """
        for folder in (self.folder, self.models, self.spool):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self.folder / "agent.lock", "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"CMAEV_AGENT_STATE_DIR: another agent uses {self.folder}; choose another"
                ) from None
            self._sweep()
            yield

    def read(self) -> list[Deployment]:
        """The deployments that were served last."""
        if not self._registry.is_file():
            return []
        return list(_Registry.model_validate_json(self._registry.read_bytes()).models)

    def write(self, deployments: Iterable[Deployment]) -> None:
        """Records what is served from now on."""
        registry = _Registry(models=tuple(sorted(deployments, key=lambda item: item.name)))
        write_atomic(self._registry, registry.model_dump_json(indent=1) + "\n")

    def archive(self, deployment: Deployment) -> Path:
        """Where the archive of a deployment lies."""
        return self.models / f"{deployment.id}.mar"

    def adopt(self, received: Path, deployment: Deployment) -> Path:
        """Moves a received archive to its place, durably."""
        with open(received, "rb") as file:
            os.fsync(file.fileno())
        target = self.archive(deployment)
        os.replace(received, target)
        sync_directory(self.models)
        return target

    def discard(self, deployment: Deployment) -> None:
        """Removes an archive."""
        self.archive(deployment).unlink(missing_ok=True)

    def _sweep(self) -> None:
        known = {self.archive(deployment).name for deployment in self.read()}
        for folder, keep in ((self.models, known), (self.spool, set[str]())):
            for path in folder.iterdir():
                if path.name not in keep:
                    path.unlink()
