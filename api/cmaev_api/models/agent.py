"""Client of the serving agent (cmaev_spec.serving_protocol)."""

import ssl
from collections.abc import AsyncIterator, Mapping
from functools import cache
from pathlib import Path
from typing import BinaryIO

import httpx
from pydantic import TypeAdapter, ValidationError

from cmaev_api.settings import Settings
from cmaev_spec.serving_protocol import AgentStatus, Problem, ServedModel

CONNECT_SECONDS = 3.0
QUICK_SECONDS = 10.0
SERVED: TypeAdapter[list[ServedModel]] = TypeAdapter(list[ServedModel])


class AgentUnreachableError(Exception):
    """The agent did not answer."""


class AgentRefusalError(Exception):
    """The agent answered with an error."""

    def __init__(self, status: int, problem: Problem) -> None:
        self.status = status
        self.problem = problem
        super().__init__(problem.detail)


class ServingAgent:
    """The agent as the control plane sees it; without an address it is never reachable."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        base = settings.serving_url or "http://unset.invalid"
        self._client = httpx.Client(
            base_url=base, timeout=_timeout(QUICK_SECONDS), verify=_certificates()
        )
        self._async = httpx.AsyncClient(
            base_url=base,
            timeout=_timeout(settings.inference_seconds),
            verify=_certificates(),
            limits=httpx.Limits(max_connections=settings.max_inferences),
        )

    @property
    def configured(self) -> bool:
        """Whether there is an agent at all."""
        return self._settings.serving_url is not None

    def status(self) -> AgentStatus:
        """State of the agent.

        Raises:
            AgentUnreachableError: if it does not answer; so do all methods here.
            AgentRefusalError: if it answers with an error; so do all methods here.
        """
        response = self._send("GET", "/readyz")
        try:
            return AgentStatus.model_validate_json(response.content)
        except ValidationError:
            raise _refusal(response) from None

    def models(self) -> list[ServedModel]:
        """What the agent serves."""
        return SERVED.validate_json(self._request("GET", "/models").content)

    def deploy(self, name: str, version: int, archive: Path, *, sha256: str) -> ServedModel:
        """Hands over an archive and waits until it is loaded or has failed."""
        size = str(archive.stat().st_size)
        with open(archive, "rb") as file:
            response = self._request(
                "PUT",
                f"/models/{name}/versions/{version}",
                content=file,
                headers={"X-Content-SHA256": sha256, "Content-Length": size},
                seconds=self._settings.deploy_seconds,
            )
        return ServedModel.model_validate_json(response.content)

    def remove(self, name: str) -> None:
        """Stops serving a model; one that is not there is fine."""
        try:
            self._request("DELETE", f"/models/{name}")
        except AgentRefusalError as error:
            if error.status != 404:
                raise

    async def classify(
        self, name: str, video: AsyncIterator[bytes], *, size: int, top_k: int
    ) -> bytes:
        """Streams a video to a model and returns the JSON of its answer.

        Raises:
            httpx.TimeoutException: if the answer takes too long.
        """
        try:
            response = await self._async.post(
                f"/models/{name}:classify",
                params={"top_k": top_k},
                content=video,
                headers=self._headers()
                | {"Content-Length": str(size), "Content-Type": "application/octet-stream"},
            )
        except httpx.ReadTimeout:
            raise
        except httpx.HTTPError as error:
            raise AgentUnreachableError(_reason(error)) from error
        if response.is_error:
            raise _refusal(response)
        return response.content

    def close(self) -> None:
        """Closes the connections of the plain calls."""
        self._client.close()

    async def aclose(self) -> None:
        """Closes the connections of `classify`."""
        await self._async.aclose()

    def _request(
        self,
        method: str,
        path: str,
        *,
        content: BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = QUICK_SECONDS,
    ) -> httpx.Response:
        response = self._send(method, path, content=content, headers=headers, seconds=seconds)
        if response.is_error:
            raise _refusal(response)
        return response

    def _send(
        self,
        method: str,
        path: str,
        *,
        content: BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = QUICK_SECONDS,
    ) -> httpx.Response:
        if not self.configured:
            raise AgentUnreachableError("no serving agent is configured (CMAEV_SERVING_URL)")
        try:
            return self._client.request(
                method,
                path,
                content=content,
                headers={**self._headers(), **(headers or {})},
                timeout=_timeout(seconds),
            )
        except httpx.HTTPError as error:
            raise AgentUnreachableError(_reason(error)) from error

    def _headers(self) -> dict[str, str]:
        token = self._settings.read_serving_token()
        return {} if token is None else {"Authorization": f"Bearer {token}"}


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # 60 ms each time, so once is enough


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=CONNECT_SECONDS)


def _reason(error: httpx.HTTPError) -> str:
    return f"the serving agent does not answer ({str(error) or type(error).__name__})"


def _refusal(response: httpx.Response) -> AgentRefusalError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        text = response.text[:200].strip() or response.reason_phrase
        problem = Problem(title="Bad Gateway", status=response.status_code, detail=text)
    return AgentRefusalError(response.status_code, problem)
