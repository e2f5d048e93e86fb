"""The serving agent: `python -m cmaev_serving.agent`.

One per host or pod. It owns TorchServe, or workers of its own, and is the only one that talks to
them; the gateway talks to it by cmaev_spec.serving_protocol. SIGTERM lets open requests end first.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from cmaev_serving.agent_settings import AgentSettings
from cmaev_serving.deployment import Backend
from cmaev_serving.inprocess import InProcessBackend
from cmaev_serving.problems import MEDIA_TYPE, ServingError
from cmaev_serving.routes import build_router
from cmaev_serving.service import AgentService
from cmaev_serving.store import ModelStore
from cmaev_serving.torchserve import TorchServeBackend
from cmaev_serving.torchserve_config import TorchServeOptions
from cmaev_serving.worker_settings import WorkerSettings
from cmaev_spec import __version__, lifeline
from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_OK
from cmaev_spec.files import write_atomic
from cmaev_spec.serving_protocol import Problem

_logger = logging.getLogger(__name__)


def build_app(settings: AgentSettings, store: ModelStore, *, port: int) -> FastAPI:
    """The application of one agent; `store` must be claimed."""
    service = AgentService(
        store, build_backend(settings, store), timeout_seconds=settings.timeout_seconds
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            if settings.port_file is not None:
                write_atomic(settings.port_file, f"{port}\n")
            yield

    app = FastAPI(
        title="cmaev serving agent", version=__version__, lifespan=lifespan, openapi_url=None
    )
    app.include_router(build_router(settings, service, store))
    app.add_exception_handler(ServingError, _on_serving_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_error)
    return app


def build_backend(settings: AgentSettings, store: ModelStore) -> Backend:
    """The backend that the settings name."""
    worker = WorkerSettings(
        spool=store.spool,
        device=settings.device,
        threads=settings.threads,
        memory_bytes=settings.memory_bytes,
        limits=settings.limits,
    ).to_environment()
    if settings.backend == "torchserve":
        options = TorchServeOptions(
            folder=store.folder / "ts",
            store=store.models,
            workers_per_model=settings.workers_per_model,
            timeout_seconds=settings.timeout_seconds,
            startup_seconds=settings.startup_seconds,
            queue_size=settings.max_queue,
        )
        return TorchServeBackend(options, worker_environment=worker)
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("CMAEV_AGENT_")
    }
    return InProcessBackend(
        store.folder / "workers",
        workers_per_model=settings.workers_per_model,
        timeout_seconds=settings.timeout_seconds,
        startup_seconds=settings.startup_seconds,
        environment=inherited | worker,
    )


def main() -> int:
    """Runs an agent until SIGTERM or SIGINT; returns its exit code."""
    lifeline.watch()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = AgentSettings()
        store = ModelStore(settings.state_dir.absolute())
        with store.claim(), _listen(settings) as listener:
            return _serve(settings, store, listener)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            name = "_".join(str(part) for part in item["loc"]).upper()
            _logger.error("%s: %s", f"CMAEV_AGENT_{name}" if name else "settings", item["msg"])
    except ValueError as error:
        _logger.error("%s", error)
    return EXIT_BAD_INPUT


def _serve(settings: AgentSettings, store: ModelStore, listener: socket.socket) -> int:
    host, port = listener.getsockname()[:2]
    server = uvicorn.Server(
        uvicorn.Config(
            build_app(settings, store, port=port),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=settings.drain_seconds,
        )
    )
    # uvicorn stops on these signals and then raises them again; by then all is done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    _logger.info("the agent listens on http://%s:%d", host, port)
    server.run(sockets=[listener])
    return EXIT_OK


def _listen(settings: AgentSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Without the protocol, asyncio leaves Nagle's delay of 40 ms on every connection.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"CMAEV_AGENT_PORT: cannot listen on {settings.host}:{settings.port} "
            f"({error.strerror}); choose another, or 0 for a free one"
        ) from None
    return listener


def _respond(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(
        problem.model_dump(mode="json"), problem.status, headers, media_type=MEDIA_TYPE
    )


async def _on_serving_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServingError)
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _respond(error.problem, headers)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    items = tuple(
        {"field": str(item["loc"][-1]), "message": str(item["msg"])} for item in error.errors()
    )
    first = items[0]
    return _respond(
        Problem(
            title="Bad request",
            status=422,
            detail=f"{first['field']}: {first['message']}",
            field=first["field"],
            fix="correct that field; cmaev_spec.serving_protocol lists the routes",
            errors=items,
        )
    )


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _respond(
        Problem(
            title=str(error.detail),
            status=error.status_code,
            detail=f"{request.method} {request.url.path}: {error.detail}",
            fix="cmaev_spec.serving_protocol lists the routes",
        ),
        dict(error.headers or {}),
    )


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    return _respond(
        Problem(title="Internal error", status=500, detail="the agent's log tells what happened")
    )


if __name__ == "__main__":
    sys.exit(main())
