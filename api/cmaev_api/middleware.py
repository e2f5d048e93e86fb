"""What every request goes through: an id, a clock, and a limit on its body."""

import re
import secrets
import time

import structlog
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cmaev_api.errors import ProblemError, problem_response
from cmaev_api.metrics import Metrics
from cmaev_api.settings import Settings

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
UPLOADS = re.compile(r"/v1/models/[^/]+:classify")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
QUIET = re.compile(r"/healthz|/readyz|/metrics|/v1/attempts/.*")

log = structlog.get_logger(__name__)


class RequestContext:
    """Gives each request an id that the logs carry, and measures it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started, status = time.perf_counter(), 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._observe(scope, status, time.perf_counter() - started)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        app: FastAPI = scope["app"]
        metrics: Metrics = app.state.metrics
        method = scope["method"] if scope["method"] in METHODS else "other"
        metrics.requests.labels(method, route, status).observe(seconds)
        if not QUIET.fullmatch(scope["path"]):
            log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                ms=round(seconds * 1000, 1),
            )


class BodyLimit:
    """Answers 413 to a body that is too large, before or while it is read."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = UPLOADS.fullmatch(scope["path"]) is not None
        limit = self._settings.max_upload_bytes if upload else self._settings.max_body_bytes
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > limit:
            await problem_response(_too_large(limit, upload=upload))(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit, upload=upload)
            return message

        await self._app(scope, receive_within_limit, send)


def _too_large(limit: int, *, upload: bool) -> ProblemError:
    variable = "CMAEV_MAX_UPLOAD_BYTES" if upload else "CMAEV_MAX_BODY_BYTES"
    return ProblemError(
        413,
        f"the body is larger than {limit} bytes",
        field="file" if upload else "body",
        fix=f"send less, or raise {variable}",
        headers={"Connection": "close"},
    )
