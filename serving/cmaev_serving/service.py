"""What an agent does: deploy, replace without a gap, remove, classify, come back after a crash."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from cmaev_serving.deployment import Backend, Deployment, ModelState
from cmaev_serving.problems import ServingError
from cmaev_serving.store import ModelStore
from cmaev_spec.serving_protocol import Classification, ServedModel

_logger = logging.getLogger(__name__)
_POLL_SECONDS = 0.05


class AgentService:
    """The deployed models of one agent."""

    def __init__(self, store: ModelStore, backend: Backend, *, timeout_seconds: float) -> None:
        self._store = store
        self._backend = backend
        self._timeout = timeout_seconds
        self._models: dict[str, Deployment] = {item.name: item for item in store.read()}
        self._failures: dict[str, str] = {}
        self._open: Counter[str] = Counter()
        self._deploying = asyncio.Lock()
        self._restored = False
        self._start_failure: str | None = None

    @property
    def obstacle(self) -> str | None:
        """Why the agent is not ready; None if it is."""
        if self._start_failure is not None:
            return self._start_failure
        if self._backend.obstacle is not None:
            return self._backend.obstacle
        return None if self._restored else "the models are being loaded"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Brings the backend and the recorded models up in the background; ends them at exit."""
        restoring = asyncio.create_task(self._restore())
        try:
            yield
        finally:
            restoring.cancel()
            await asyncio.gather(restoring, return_exceptions=True)
            await self._backend.stop()

    async def models(self) -> list[ServedModel]:
        """Every deployed model and its state."""
        return [await self._describe(self._models[name]) for name in sorted(self._models)]

    async def deploy(self, deployment: Deployment, received: Path) -> ServedModel:
        """Serves a verified archive in place of the version before, without a gap.

        Args:
            deployment: what it is.
            received: the archive, in the agent's folder; it is moved away.

        Raises:
            ServingError: if it cannot be loaded, the version before is served on; 409 if this
                version exists with other content.
        """
        async with self._deploying:
            before = self._models.get(deployment.name)
            if before is not None and before.version == deployment.version:
                if before.sha256 != deployment.sha256:
                    raise _version_taken(deployment)
                if before.id not in self._failures:
                    return await self._describe(before)
            archive = self._store.adopt(received, deployment)
            try:
                await self._backend.load(deployment, archive)
            except BaseException:
                if before is None or before.id != deployment.id:
                    self._store.discard(deployment)
                raise
            self._models[deployment.name] = deployment
            self._failures.pop(deployment.id, None)
            self._store.write(self._models.values())
            if before is not None and before.id != deployment.id:
                await self._retire(before)
        return await self._describe(deployment)

    async def remove(self, name: str) -> None:
        """Stops serving a model.

        Raises:
            ServingError: 404 if there is none of that name.
        """
        async with self._deploying:
            deployment = self._find(name)
            del self._models[name]
            self._store.write(self._models.values())
            await self._retire(deployment)

    async def classify(self, name: str, video: Path, *, top_k: int) -> Classification:
        """Classifies a spooled video.

        Raises:
            ServingError: with the reason.
        """
        deployment = self._find(name)
        if deployment.id in self._failures:
            raise ServingError(
                503,
                f"the model could not be loaded: {self._failures[deployment.id]}",
                title="Not available",
                field="name",
                fix="deploy it again",
            )
        self._open[deployment.id] += 1
        try:
            answer = await self._backend.classify(deployment, video, top_k)
        finally:
            self._open[deployment.id] -= 1
        return answer.model_copy(update={"model": deployment.name, "version": deployment.version})

    def require(self, name: str) -> None:
        """Checks that there is a model of that name.

        Raises:
            ServingError: 404 if there is none; it lists those there are.
        """
        self._find(name)

    def _find(self, name: str) -> Deployment:
        if name in self._models:
            return self._models[name]
        known = ", ".join(sorted(self._models)) or "none yet"
        raise ServingError(
            404,
            f"no model {name!r} is deployed; there are: {known}",
            title="Unknown model",
            field="name",
            fix="deploy it first, or choose one of those",
        )

    async def _describe(self, deployment: Deployment) -> ServedModel:
        status: ModelState = "failed"
        detail = self._failures.get(deployment.id)
        if detail is None:
            status, detail = await self._backend.state(deployment)
        return ServedModel(
            name=deployment.name,
            version=deployment.version,
            sha256=deployment.sha256,
            status=status,
            detail=detail,
        )

    async def _restore(self) -> None:
        try:
            await self._backend.start()
        except Exception as error:
            self._start_failure = f"the backend cannot start: {error}"
            _logger.exception("the backend cannot start")
            return
        async with self._deploying:
            for deployment in list(self._models.values()):
                try:
                    await self._backend.load(deployment, self._store.archive(deployment))
                except (ServingError, OSError) as error:
                    self._failures[deployment.id] = str(error)
                    _logger.error("%s cannot be loaded: %s", deployment.id, error)
        self._restored = True

    async def _retire(self, deployment: Deployment) -> None:
        """Lets open requests end, then unloads."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                while self._open[deployment.id]:
                    await asyncio.sleep(_POLL_SECONDS)
        try:
            await self._backend.unload(deployment)
        except ServingError as error:
            _logger.error("%s cannot be unloaded: %s", deployment.id, error)
        self._store.discard(deployment)


def _version_taken(deployment: Deployment) -> ServingError:
    return ServingError(
        409,
        f"version {deployment.version} of {deployment.name} is deployed with other content",
        title="Version taken",
        field="version",
        fix="deploy it as a new version",
    )
