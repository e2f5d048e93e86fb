"""The in-process backend: the agent runs the predictor itself, in workers that it can kill."""

from collections.abc import Mapping
from pathlib import Path

from cmaev_serving.archive import extract_model
from cmaev_serving.deployment import Deployment, ModelState
from cmaev_serving.problems import ServingError, unavailable
from cmaev_serving.requests import WorkerReply, WorkerRequest
from cmaev_serving.worker_pool import WorkerPool
from cmaev_spec.serving_protocol import Classification, Problem


class InProcessBackend:
    """Serves every deployment by a pool of worker processes; see deployment.Backend."""

    def __init__(
        self,
        folder: Path,
        *,
        workers_per_model: int,
        timeout_seconds: float,
        startup_seconds: float,
        environment: Mapping[str, str],
    ) -> None:
        """Prepares the backend.

        Args:
            folder: for the extracted models and the workers' log.
            workers_per_model: processes that serve one model.
            timeout_seconds: longest time for one video.
            startup_seconds: longest time to load a model.
            environment: the whole environment of the workers.
        """
        self._folder = folder
        self._size = workers_per_model
        self._timeout = timeout_seconds
        self._startup = startup_seconds
        self._environment = environment
        self._pools: dict[str, WorkerPool] = {}

    @property
    def obstacle(self) -> str | None:
        """Nothing is ever in the way."""
        return None

    async def start(self) -> None:
        """Makes its folder and empties it of what an earlier agent left."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._folder.glob("*.onnx"):
            leftover.unlink()

    async def stop(self) -> None:
        """Ends all workers."""
        for identifier in list(self._pools):
            await self._close(identifier)

    async def load(self, deployment: Deployment, archive: Path) -> None:
        """Extracts the model and starts its workers."""
        model = self._model(deployment.id)
        extract_model(archive, model)
        pool = WorkerPool(
            model,
            size=self._size,
            environment=self._environment,
            log=self._folder / "workers.log",
            timeout_seconds=self._timeout,
            startup_seconds=self._startup,
        )
        try:
            await pool.start()
        except BaseException:
            model.unlink(missing_ok=True)
            raise
        self._pools[deployment.id] = pool

    async def unload(self, deployment: Deployment) -> None:
        """Ends the workers of a deployment."""
        if deployment.id in self._pools:
            await self._close(deployment.id)

    async def state(self, deployment: Deployment) -> tuple[ModelState, str]:
        """Whether a worker is there."""
        pool = self._pools.get(deployment.id)
        failure = "it is not loaded" if pool is None else pool.failure
        return ("ready", "") if failure is None else ("loading", failure)

    async def classify(self, deployment: Deployment, video: Path, top_k: int) -> Classification:
        """Asks a worker."""
        pool = self._pools.get(deployment.id)
        if pool is None:
            raise unavailable("the model is being loaded")
        return parse_reply(await pool.ask(WorkerRequest(path=video.name, top_k=top_k)))

    async def _close(self, identifier: str) -> None:
        await self._pools.pop(identifier).close()
        self._model(identifier).unlink(missing_ok=True)

    def _model(self, identifier: str) -> Path:
        return self._folder / f"{identifier}.onnx"


def parse_reply(reply: WorkerReply) -> Classification:
    """The answer of a worker.

    Raises:
        ServingError: the problem that it reported instead.
    """
    if reply.status == 200:
        return Classification.model_validate_json(reply.body)
    raise ServingError.from_problem(Problem.model_validate_json(reply.body))
