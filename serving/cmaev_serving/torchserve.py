"""The TorchServe backend: starts Java, keeps it up, and brings its models back after a crash."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from cmaev_serving import torchserve_config as config
from cmaev_serving.deployment import Deployment, ModelState
from cmaev_serving.inprocess import parse_reply
from cmaev_serving.problems import ServingError, unavailable
from cmaev_serving.requests import WorkerRequest
from cmaev_serving.torchserve_client import TorchServeClient
from cmaev_spec import lifeline
from cmaev_spec.files import write_atomic
from cmaev_spec.serving_protocol import Classification

_BACKOFF_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
_STOP_SECONDS = 10.0
_RENEWAL_RETRY_SECONDS = 10.0
_logger = logging.getLogger(__name__)


class TorchServeBackend:
    """Serves every deployment by TorchServe; see deployment.Backend."""

    def __init__(
        self, options: config.TorchServeOptions, *, worker_environment: Mapping[str, str]
    ) -> None:
        """Prepares the backend.

        Args:
            options: how TorchServe is to run.
            worker_environment: variables for its workers.

        Raises:
            ValueError: if the folder's path is too long for TorchServe's sockets.
        """
        config.check_path(options)
        self._options = options
        self._worker_environment = worker_environment
        self._client: TorchServeClient | None = None
        self._loaded: dict[str, Path] = {}
        self._obstacle: str | None = "TorchServe is starting"
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def obstacle(self) -> str | None:
        """Set while Java is not up."""
        return self._obstacle

    async def start(self) -> None:
        """Starts Java and waits until it answers."""
        config.prepare_folders(self._options)
        self._task = asyncio.create_task(self._keep_up())
        waiter = asyncio.create_task(self._up.wait())
        try:
            await asyncio.wait({self._task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Ends Java and its workers."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def load(self, deployment: Deployment, archive: Path) -> None:
        """Registers the archive; a model that does not load is taken away again."""
        client = self._running()
        try:
            await client.register(deployment.id, archive)
        except httpx.HTTPError:
            raise unavailable("TorchServe ended while it loaded the model") from None
        except ServingError:
            with contextlib.suppress(httpx.HTTPError):
                await client.unregister(deployment.id)
            raise
        self._loaded[deployment.id] = archive

    async def unload(self, deployment: Deployment) -> None:
        """Unregisters the model."""
        self._loaded.pop(deployment.id, None)
        if self._client is not None:
            try:
                await self._client.unregister(deployment.id)
            except httpx.HTTPError:
                _logger.info("TorchServe is down, so %s is gone already", deployment.id)

    async def state(self, deployment: Deployment) -> tuple[ModelState, str]:
        """What TorchServe says about the workers."""
        if self._client is None:
            return "loading", self._obstacle or ""
        try:
            return await self._client.describe(deployment.id)
        except httpx.HTTPError:
            return "loading", "TorchServe does not answer"

    async def classify(self, deployment: Deployment, video: Path, top_k: int) -> Classification:
        """Sends the video's name to TorchServe."""
        request = WorkerRequest(path=video.name, top_k=top_k)
        try:
            return parse_reply(await self._running().predict(deployment.id, request))
        except httpx.HTTPError:
            raise unavailable("TorchServe ended while it worked on the request") from None

    def _running(self) -> TorchServeClient:
        if self._client is None:
            raise unavailable(self._obstacle or "TorchServe is starting")
        return self._client

    async def _keep_up(self) -> None:
        """Starts Java again whenever it ends, later each time that it did not come up."""
        failures = 0
        while True:
            await asyncio.sleep(_BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)])
            was_up = await self._run_once()
            failures = 1 if was_up else failures + 1
            self._obstacle = "TorchServe ended and is being started again"
            _logger.error("%s; see %s", self._obstacle, self._options.logs)

    async def _run_once(self) -> bool:
        """Runs Java until it ends; returns whether it came up."""
        ports = config.free_ports()
        child = self._spawn(ports)
        ended = asyncio.create_task(asyncio.to_thread(child.process.wait))
        try:
            async with TorchServeClient(self._options, ports) as client:
                coming_up = asyncio.create_task(self._bring_up(client))
                try:
                    await asyncio.wait({ended, coming_up}, return_when=asyncio.FIRST_COMPLETED)
                    if not coming_up.done():
                        return False
                    coming_up.result()
                    await self._renew_until(client, ended)
                    return True
                finally:
                    coming_up.cancel()
                    await asyncio.gather(coming_up, return_exceptions=True)
        except Exception:  # whatever goes wrong with this start, there must be a next one
            _logger.exception("TorchServe is started again after an error")
            return False
        finally:
            self._client = None
            await asyncio.shield(self._end(child, ended))

    async def _bring_up(self, client: TorchServeClient) -> None:
        async with asyncio.timeout(self._options.startup_seconds):
            await client.wait_until_up()
        for identifier, archive in list(self._loaded.items()):
            try:
                await client.register(identifier, archive)
            except ServingError as error:
                _logger.error("%s does not come back: %s", identifier, error)
        self._client = client
        self._obstacle = None
        self._up.set()

    async def _renew_until(self, client: TorchServeClient, ended: "asyncio.Task[int]") -> None:
        """Renews the tokens in half their life, until Java ends."""
        interval = wait = self._options.token_minutes * 60 / 2
        while not ended.done():
            done, _ = await asyncio.wait({ended}, timeout=wait)
            if done:
                return
            try:
                await client.renew_tokens()
                wait = interval
            except (httpx.HTTPError, ServingError) as error:
                wait = _RENEWAL_RETRY_SECONDS
                _logger.warning("the tokens of TorchServe are not renewed yet: %s", error)

    def _spawn(self, ports: config.Ports) -> lifeline.Child:
        self._options.keys.unlink(missing_ok=True)
        file = self._options.folder / "config.properties"
        write_atomic(file, config.properties(self._options, ports), mode=0o600)
        with open(self._options.logs / "java.log", "ab") as log:
            return lifeline.spawn(
                [sys.executable, "-m", "cmaev_spec.lifeline", *config.command(self._options, file)],
                env=config.environment(self._options, self._worker_environment),
                cwd=self._options.work,
                stdout=log,
                stderr=log,
            )

    async def _end(self, child: lifeline.Child, ended: "asyncio.Task[int]") -> None:
        if not ended.done():
            child.process.send_signal(signal.SIGTERM)
            await asyncio.wait({ended}, timeout=_STOP_SECONDS)
        await asyncio.to_thread(child.close)
        await ended
        self._options.keys.unlink(missing_ok=True)
