"""The application: `create_app(settings)` puts the parts together and connects to nothing.

Connections, migrations, first keys and background work begin with the lifespan and end with it.
"""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial

from anyio.to_thread import run_sync
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from cmaev_api import errors
from cmaev_api.attempts import endpoints as attempts
from cmaev_api.db import Database
from cmaev_api.dispatch import Dispatcher
from cmaev_api.inference import endpoints as inference
from cmaev_api.inference.service import InferenceService
from cmaev_api.jobs import endpoints as jobs
from cmaev_api.keys import ensure_keys
from cmaev_api.metrics import Metrics
from cmaev_api.middleware import BodyLimit, RequestContext
from cmaev_api.migrations import upgrade
from cmaev_api.models import endpoints as models
from cmaev_api.models.agent import ServingAgent
from cmaev_api.models.reconciler import Reconciler
from cmaev_api.periodic import Periodic
from cmaev_api.runs import endpoints as runs
from cmaev_api.settings import Settings
from cmaev_api.sweeper import Sweeper
from cmaev_api.system import endpoints as system
from cmaev_spec import __version__
from cmaev_spec.serving_protocol import Problem


def create_app(settings: Settings | None = None) -> FastAPI:
    """Makes the application, from the environment if no settings are given."""
    settings = settings or Settings()
    app = FastAPI(
        title="cmaev",
        version=__version__,
        summary="From unlabelled videos to a served action recogniser: jobs, models, answers.",
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.database = database = Database(settings.database)
    app.state.dispatcher = dispatcher = Dispatcher(settings.redis_url)
    app.state.agent = agent = ServingAgent(settings)
    app.state.reconciler = Reconciler(database, agent)
    app.state.inference = InferenceService(agent, settings=settings)
    app.state.metrics = metrics = Metrics(database)
    app.state.sweeper = Sweeper(database, dispatcher, settings=settings, metrics=metrics)
    errors.install(app)
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(RequestContext)
    for part in (jobs, runs, attempts, models, inference, system):
        app.include_router(part.router)
    for _ in iter_route_contexts(app.routes):
        pass  # builds the routes, or the first request of each part would have to
    _describe_problems(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    with ExitStack() as stack:
        await run_sync(_start, app, stack)
        yield
        await app.state.agent.aclose()


def _start(app: FastAPI, stack: ExitStack) -> None:
    settings: Settings = app.state.settings
    metrics: Metrics = app.state.metrics
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.runs.mkdir(parents=True, exist_ok=True)
    for part in (app.state.database, app.state.dispatcher, app.state.agent):
        stack.callback(part.close)
    upgrade(app.state.database.engine)
    ensure_keys(app.state.database, settings)
    rounds = {"sweep": app.state.sweeper.sweep, "reconcile": app.state.reconciler.reconcile}
    for name, work in rounds.items():
        periodic = Periodic(
            name,
            work,
            seconds=settings.sweep_seconds,
            on_failure=partial(_count, metrics, name),
        )
        periodic.start()
        stack.callback(periodic.stop)


def _count(metrics: Metrics, work: str) -> None:
    metrics.sweep_failures.labels(work).inc()


def _describe_problems(app: FastAPI) -> None:
    """Puts the schema of a problem, which no endpoint returns by itself, into the description."""
    make = app.openapi

    def openapi() -> dict[str, object]:
        if app.openapi_schema is None:
            schema = make()
            schema["components"]["schemas"]["Problem"] = Problem.model_json_schema(
                ref_template="#/components/schemas/{model}"
            )
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
