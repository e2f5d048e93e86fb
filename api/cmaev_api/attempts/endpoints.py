"""`/v1/attempts`: the worker protocol of cmaev_spec.worker_protocol."""

from typing import Annotated

from fastapi import APIRouter, Depends

from cmaev_api.attempts.service import AttemptService
from cmaev_api.auth import require_worker
from cmaev_api.deps import DispatcherDep, SettingsDep, WriteSession
from cmaev_api.errors import PROBLEM_RESPONSES
from cmaev_spec.worker_protocol import (
    AttemptReceipt,
    AttemptReport,
    EventBatch,
    EventReceipt,
    Heartbeat,
    HeartbeatReply,
    LeaseGrant,
    LeaseRequest,
)

router = APIRouter(
    prefix="/v1/attempts",
    tags=["attempts"],
    dependencies=[require_worker],
    responses=PROBLEM_RESPONSES,
)


def attempt_service(
    session: WriteSession, dispatcher: DispatcherDep, settings: SettingsDep
) -> AttemptService:
    """The worker protocol in the request's transaction."""
    return AttemptService(session, dispatcher=dispatcher, settings=settings)


Service = Annotated[AttemptService, Depends(attempt_service)]


@router.post("/{attempt_id}:lease")
def lease(attempt_id: str, body: LeaseRequest, service: Service) -> LeaseGrant:
    """Take an attempt; only the first worker gets it."""
    return service.lease(attempt_id, body)


@router.post("/{attempt_id}:heartbeat")
def heartbeat(attempt_id: str, body: Heartbeat, service: Service) -> HeartbeatReply:
    """Renew a lease and learn what is wanted of the run."""
    return service.heartbeat(attempt_id, body)


@router.post("/{attempt_id}/events")
def record_events(attempt_id: str, body: EventBatch, service: Service) -> EventReceipt:
    """Report events in order; repeats are harmless."""
    return service.record(attempt_id, body)


@router.post("/{attempt_id}:outcome")
def report_outcome(attempt_id: str, body: AttemptReport, service: Service) -> AttemptReceipt:
    """Report how an attempt ended; a repeat is harmless."""
    return service.report(attempt_id, body)
