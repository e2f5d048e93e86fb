"""A typed HTTP client of the control plane, for commands, notebooks and tests."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from cmaev_api.environment import find_key, find_url, header_value
from cmaev_api.jobs.schemas import JobPage, JobRead, JobSummary
from cmaev_api.models.schemas import ModelList, ModelRead, VersionRead
from cmaev_api.runs.schemas import Artifact, ArtifactList, EventPage, MetricRows
from cmaev_api.system.schemas import SystemStatus
from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_FAILED, BadInput
from cmaev_spec.job import JobSpec
from cmaev_spec.serving_protocol import Classification, Problem
from cmaev_spec.state import JobState

BAD_INPUT = {400, 413, 415, 422}
RESTING = {JobState.PAUSED}
CHUNK = 1 << 18


class ApiError(Exception):
    """What the control plane had to say about a request, or that it said nothing."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        text = problem.detail if problem.fix is None else f"{problem.detail}\n  fix: {problem.fix}"
        super().__init__(text)

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this error."""
        return EXIT_BAD_INPUT if self.problem.status in BAD_INPUT else EXIT_FAILED


class Client:
    """The control plane at one address, with one key."""

    def __init__(self, url: str, key: str, *, timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(timeout, connect=5.0),
            headers={"Authorization": f"Bearer {key}"},
        )

    @classmethod
    def from_environment(cls) -> Self:
        """The control plane that CMAEV_ variables or the local stack's state folder tell of.

        Raises:
            BadInput: if there is no key, or an address or key that cannot be used.
        """
        return cls(find_url(), find_key())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def status(self) -> SystemStatus:
        """How every part of the stack is; raises ApiError, as all methods here do."""
        return SystemStatus.model_validate_json(self._get("/v1/status").content)

    def submit(self, spec: JobSpec, *, idempotency_key: str | None = None) -> JobRead:
        """Submits a job; paths in it must be absolute."""
        headers = {}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = header_value(idempotency_key, source="idempotency key")
        body = spec.model_dump(mode="json")
        response = self._send("POST", "/v1/jobs", json=body, headers=headers)
        return JobRead.model_validate_json(response.content)

    def jobs(
        self, *, states: Sequence[str] = (), kinds: Sequence[str] = (), limit: int = 50
    ) -> list[JobSummary]:
        """At most `limit` jobs, newest first."""
        items: list[JobSummary] = []
        cursor: str | None = None
        while len(items) < limit:
            params: dict[str, Any] = {
                "state": list(states),
                "kind": list(kinds),
                "limit": min(200, limit - len(items)),
            }
            if cursor is not None:
                params["cursor"] = cursor
            page = JobPage.model_validate_json(self._get("/v1/jobs", params=params).content)
            items += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
        return items

    def job(self, job_id: str) -> JobRead:
        """One job."""
        return JobRead.model_validate_json(self._get(_job(job_id)).content)

    def cancel(self, job_id: str) -> JobRead:
        """Cancels a job."""
        return self._act(job_id, "cancel")

    def pause(self, job_id: str) -> JobRead:
        """Pauses a job after its next checkpoint."""
        return self._act(job_id, "pause")

    def resume(self, job_id: str) -> JobRead:
        """Resumes a paused job."""
        return self._act(job_id, "resume")

    def retry(self, job_id: str) -> JobRead:
        """Submits a finished job again; returns the new one."""
        return self._act(job_id, "retry")

    def wait(
        self,
        job_id: str,
        *,
        interval: float = 1.0,
        patience: float = 60.0,
        on_change: Callable[[JobRead], None] | None = None,
        on_poll: Callable[[JobRead], None] | None = None,
    ) -> JobRead:
        """Waits until a job has ended or is paused.

        Calls `on_change` with the job whenever it is not as before, and `on_poll` each time.

        A control plane that is away, say for a restart, is waited for up to `patience` seconds.
        """
        seen: JobRead | None = None
        heard = time.monotonic()
        while True:
            try:
                job = self.job(job_id)
            except ApiError as error:
                if error.problem.status != 503 or time.monotonic() - heard > patience:
                    raise
                time.sleep(interval)
                continue
            heard = time.monotonic()
            if on_change is not None and job != seen:
                on_change(job)
            if on_poll is not None:
                on_poll(job)
            if job.state.terminal or job.state in RESTING:
                return job
            seen = job
            time.sleep(interval)

    def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> EventPage:
        """Events of a job's run after an offset."""
        params = {"after": after, "limit": limit}
        response = self._get(f"{_job(job_id)}/events", params=params)
        return EventPage.model_validate_json(response.content)

    def logs(self, job_id: str, *, offset: int | None = None) -> tuple[str, int]:
        """The end of a job's log, or its part from `offset`; and the offset after that."""
        params = {} if offset is None else {"offset": offset}
        response = self._get(f"{_job(job_id)}/logs", params=params)
        return response.text, int(response.headers["X-Next-Offset"])

    def metrics(self, job_id: str, *, after: int = 0, limit: int = 10_000) -> list[dict[str, Any]]:
        """Rows of a job's `metrics.jsonl`."""
        params = {"after": after, "limit": limit}
        response = self._get(f"{_job(job_id)}/metrics", params=params)
        return MetricRows.model_validate_json(response.content).items

    def artifacts(self, job_id: str) -> list[Artifact]:
        """The files that a job's run announced."""
        response = self._get(f"{_job(job_id)}/artifacts")
        return ArtifactList.model_validate_json(response.content).items

    def fetch(self, job_id: str, path: str, destination: Path) -> None:
        """Downloads a file of a job's run directory; `destination` appears when it is whole."""
        url = f"{_job(job_id)}/artifacts/{'/'.join(map(_segment, path.split('/')))}"
        part = destination.with_name(f".{destination.name}.part")
        with self._answering(), self._http.stream("GET", url) as response:
            if response.is_error:
                response.read()
                raise self._error(response)
            with open(part, "wb") as file:
                for chunk in response.iter_bytes(CHUNK):
                    file.write(chunk)
        part.replace(destination)

    def models(self) -> list[VersionRead]:
        """The models that are served."""
        return ModelList.model_validate_json(self._get("/v1/models").content).items

    def model(self, name: str) -> ModelRead:
        """One model with its versions and history."""
        return ModelRead.model_validate_json(self._get(_model(name)).content)

    def deploy(self, job_id: str, *, name: str | None = None, timeout: float = 330.0) -> ModelRead:
        """Deploys the archive of an export job and returns the status it reached."""
        body = {"job": job_id, "name": name}
        response = self._send("POST", "/v1/models", json=body, timeout=timeout)
        return ModelRead.model_validate_json(response.content)

    def delete_model(self, name: str) -> None:
        """Stops serving a model."""
        self._send("DELETE", _model(name))

    def classify(
        self, model: str, video: str | Path, *, top_k: int = 5, timeout: float = 120.0
    ) -> Classification:
        """Asks a model what happens in a video file."""
        with open(video, "rb") as file:
            response = self._send(
                "POST",
                f"{_model(model)}:classify",
                params={"top_k": top_k},
                content=file,
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(os.fstat(file.fileno()).st_size),
                },
                timeout=timeout,
            )
        return Classification.model_validate_json(response.content)

    def _act(self, job_id: str, action: str) -> JobRead:
        response = self._send("POST", f"{_job(job_id)}:{action}")
        return JobRead.model_validate_json(response.content)

    def _get(self, path: str, *, params: Mapping[str, Any] | None = None) -> httpx.Response:
        return self._send("GET", path, params=params)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._answering():
            response = self._http.request(method, path, **options)
        if response.is_error:
            raise self._error(response)
        return response

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise ApiError(
                Problem(
                    title="No answer",
                    status=503,
                    detail=f"{self.url} does not answer ({str(error) or type(error).__name__})",
                    fix="start the stack with `cmaev up`, or set CMAEV_URL to its address",
                )
            ) from error

    def _error(self, response: httpx.Response) -> ApiError:
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            text = response.text[:200].strip() or response.reason_phrase
            problem = Problem(
                title=response.reason_phrase, status=response.status_code, detail=text
            )
        if problem.status == httpx.codes.UNAUTHORIZED:
            problem = problem.model_copy(update={"detail": f"{self.url}: {problem.detail}"})
        return ApiError(problem)


def _job(job_id: str) -> str:
    return f"/v1/jobs/{_segment(job_id)}"


def _model(name: str) -> str:
    return f"/v1/models/{_segment(name)}"


def _segment(text: str) -> str:
    """A part of a path; what would lead to another path is refused.

    Raises:
        BadInput: if it is empty or made of dots only.
    """
    if text in {"", ".", ".."}:
        raise BadInput(f"{text!r} is the name of nothing")
    return quote(text, safe="")
