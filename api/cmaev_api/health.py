"""`/healthz`, `/readyz`, `/metrics`: open to probes, so they tell counts and parts only."""

from typing import Literal

from fastapi import APIRouter, Request, Response, status
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from cmaev_api.db import Database
from cmaev_api.deps import DatabaseDep, DispatcherDep
from cmaev_api.metrics import Metrics

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether the parts that every request needs answer."""

    ready: bool
    database: Literal["ok", "unavailable"]
    broker: Literal["ok", "unavailable"]


@router.get("/healthz")
async def healthz() -> Health:
    """Tell that the process lives; asks nobody else."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "A part is away"}})
def readyz(database: DatabaseDep, dispatcher: DispatcherDep, response: Response) -> Readiness:
    """Tell whether the database and the broker answer."""
    database_ok, broker_ok = _database_answers(database), dispatcher.check() is None
    if not (database_ok and broker_ok):
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Readiness(
        ready=database_ok and broker_ok,
        database="ok" if database_ok else "unavailable",
        broker="ok" if broker_ok else "unavailable",
    )


@router.get("/metrics", response_class=Response)
def prometheus(request: Request) -> Response:
    """Tell the metrics in Prometheus' text form."""
    metrics: Metrics = request.app.state.metrics
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _database_answers(database: Database) -> bool:
    try:
        with database.read() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True
