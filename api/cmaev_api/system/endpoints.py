"""`/healthz`, `/readyz`, `/metrics`: open to probes, so they tell counts only; `/v1/status`."""

import shutil

from fastapi import APIRouter, Request, Response, status
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from cmaev_api.attempts.repository import AttemptRepository
from cmaev_api.auth import require_admin
from cmaev_api.db import Database
from cmaev_api.deps import AgentDep, DatabaseDep, DispatcherDep, SettingsDep
from cmaev_api.errors import PROBLEM_RESPONSES
from cmaev_api.metrics import Metrics
from cmaev_api.models.agent import AgentRefusalError, AgentUnreachableError
from cmaev_api.system.schemas import Health, Readiness, SystemStatus
from cmaev_spec import __version__

router = APIRouter(tags=["system"])


@router.get("/healthz")
async def healthz() -> Health:
    """Tell that the process lives; asks nobody else."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "A part is away"}})
def readyz(database: DatabaseDep, dispatcher: DispatcherDep, response: Response) -> Readiness:
    """Tell whether the database and the broker answer."""
    readiness = _readiness(database, broker_error=dispatcher.check())
    if not readiness.ready:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return readiness


@router.get("/metrics", response_class=Response)
def prometheus(request: Request) -> Response:
    """Tell the metrics in Prometheus' text form."""
    metrics: Metrics = request.app.state.metrics
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/status", dependencies=[require_admin], responses=PROBLEM_RESPONSES)
def system_status(
    database: DatabaseDep, dispatcher: DispatcherDep, agent: AgentDep, settings: SettingsDep
) -> SystemStatus:
    """Tell how every part is that the control plane works with."""
    serving, serving_detail = None, None
    try:
        serving = agent.status()
    except (AgentUnreachableError, AgentRefusalError) as error:
        serving_detail = str(error)
    broker_error = dispatcher.check()
    with database.read() as session:
        leased = AttemptRepository(session).count_leased()
    return SystemStatus(
        version=__version__,
        readiness=_readiness(database, broker_error=broker_error),
        broker_detail=broker_error,
        serving=serving,
        serving_detail=serving_detail,
        runs_dir=str(settings.runs),
        free_bytes=shutil.disk_usage(settings.runs).free,
        workers=dispatcher.count_workers() if broker_error is None else 0,
        leased_attempts=leased,
    )


def _readiness(database: Database, *, broker_error: str | None) -> Readiness:
    database_ok = _database_answers(database)
    return Readiness(
        ready=database_ok and broker_error is None,
        database="ok" if database_ok else "unavailable",
        broker="ok" if broker_error is None else "unavailable",
    )


def _database_answers(database: Database) -> bool:
    try:
        with database.read() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True
