"""TorchServe over HTTP: tokens, management, inference."""

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any, Literal, Self

import httpx

from cmaev_serving.deployment import ModelState
from cmaev_serving.problems import ServingError, cannot_load, timed_out, unavailable
from cmaev_serving.requests import WorkerReply, WorkerRequest
from cmaev_serving.torchserve_config import Ports, TorchServeOptions

_POLL_SECONDS = 0.2
_KEY_READS = 10
_KEY_WAIT_SECONDS = 0.05
_logger = logging.getLogger(__name__)
_Kind = Literal["inference", "management"]


class TorchServeClient:
    """Speaks to one running TorchServe."""

    def __init__(self, options: TorchServeOptions, ports: Ports) -> None:
        self._options = options
        self._addresses: dict[_Kind, str] = {
            "inference": f"http://127.0.0.1:{ports.inference}",
            "management": f"http://127.0.0.1:{ports.management}",
        }
        self._keys: dict[str, str] = {}
        self._http = httpx.AsyncClient(
            trust_env=False,
            timeout=httpx.Timeout(options.timeout_seconds * 2 + 10, connect=5),
            limits=httpx.Limits(max_connections=None),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def wait_until_up(self) -> None:
        """Waits until both ports answer; the caller sets the time limit."""
        probes: tuple[tuple[_Kind, str], ...] = (("management", "/models"), ("inference", "/ping"))
        for kind, path in probes:
            while True:
                try:
                    response = await self._send(kind, "GET", path)
                    if response.status_code == 200:
                        break
                except (httpx.HTTPError, ServingError) as error:
                    _logger.debug("TorchServe is not up yet: %s", error)
                await asyncio.sleep(_POLL_SECONDS)

    async def register(self, name: str, archive: Path) -> None:
        """Registers an archive of the store and waits until its workers are ready.

        Raises:
            ServingError: 422 if the model cannot be loaded, 503 if TorchServe fails.
        """
        seconds = self._options.startup_seconds
        response = await self._send(
            "management",
            "POST",
            "/models",
            params={
                "url": archive.name,
                "model_name": name,
                "initial_workers": self._options.workers_per_model,
                "synchronous": "true",
                "batch_size": 1,
                "response_timeout": round(max(self._options.timeout_seconds, 1)),
                "startup_timeout": round(max(seconds, 1)),
            },
            timeout=seconds + 10,
        )
        if response.status_code != 200:
            raise cannot_load(_message(response))
        deadline = time.monotonic() + seconds
        while (state := await self.describe(name))[0] != "ready":
            if time.monotonic() > deadline:
                raise cannot_load(state[1])
            await asyncio.sleep(_POLL_SECONDS)

    async def unregister(self, name: str) -> None:
        """Stops a model; harmless if it is not there."""
        response = await self._send("management", "DELETE", f"/models/{name}", timeout=60)
        if response.status_code not in {200, 404}:
            raise unavailable(f"TorchServe does not let the model go: {_message(response)}")

    async def describe(self, name: str) -> tuple[ModelState, str]:
        """Whether a worker of the model is ready."""
        response = await self._send("management", "GET", f"/models/{name}", timeout=10)
        if response.status_code == 404:
            return "loading", "it is not loaded"
        if response.status_code != 200:
            return "loading", _message(response)
        states = [worker["status"] for worker in response.json()[0]["workers"]]
        if "READY" in states:
            return "ready", ""
        return "loading", f"its workers are {', '.join(states).lower() or 'starting'}"

    async def predict(self, name: str, request: WorkerRequest) -> WorkerReply:
        """Sends a request to a model's worker.

        Raises:
            ServingError: 503 or 504 if TorchServe itself, not the handler, fails.
        """
        begin = time.monotonic()
        try:
            response = await self._send(
                "inference", "POST", f"/predictions/{name}", body=request.model_dump()
            )
        except httpx.TimeoutException:
            raise timed_out(self._options.timeout_seconds) from None
        if response.status_code == 200:
            return WorkerReply(status=200, body=response.text)
        data = _json(response)
        if "detail" in data and "title" in data:
            return WorkerReply(status=response.status_code, body=response.text)
        if response.status_code in {500, 507}:
            if time.monotonic() - begin >= self._options.timeout_seconds:
                raise timed_out(self._options.timeout_seconds)
            raise unavailable("the worker died while it read the video")
        if response.status_code == 404:
            raise unavailable("the model is being loaded")
        raise unavailable(f"TorchServe refuses the request: {_message(response)}")

    async def renew_tokens(self) -> None:
        """Asks for new tokens; the old ones end at once, and the file holds the new ones."""
        for kind in self._addresses:
            await self._read_keys()
            response = await self._http.get(
                f"{self._addresses['management']}/token",
                params={"type": kind},
                headers={"Authorization": f"Bearer {self._keys['API']}"},
            )
            response.raise_for_status()
        await self._read_keys()

    async def _send(
        self,
        kind: _Kind,
        method: str,
        path: str,
        *,
        params: dict[str, str | int] | None = None,
        body: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> httpx.Response:
        """One request; a token that was renewed meanwhile is read again, once."""
        for attempt in range(2):
            if kind not in self._keys or attempt:
                await self._read_keys()
            response = await self._http.request(
                method,
                self._addresses[kind] + path,
                params=params,
                json=body,
                headers={"Authorization": f"Bearer {self._keys[kind]}"},
                timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else timeout,
            )
            if _json(response).get("type") != "InvalidKeyException":
                break
        return response

    async def _read_keys(self) -> None:
        """Reads the tokens; TorchServe writes the file in place, so a part of it may be seen."""
        for _ in range(_KEY_READS):
            try:
                data = json.loads(self._options.keys.read_text())
                self._keys = {name: data[name]["key"] for name in ("API", *self._addresses)}
                return
            except (OSError, ValueError, KeyError):
                await asyncio.sleep(_KEY_WAIT_SECONDS)
        raise unavailable("TorchServe has not written its tokens")


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        data = response.json()
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _message(response: httpx.Response) -> str:
    return str(_json(response).get("message") or f"status {response.status_code}")
