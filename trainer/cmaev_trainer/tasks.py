"""The one task: run an attempt."""

import httpx
import structlog

from cmaev_spec.wire import QUEUE, TASK_RUN_ATTEMPT
from cmaev_trainer.app import app
from cmaev_trainer.client import ControlPlane
from cmaev_trainer.settings import WorkerSettings, load_settings
from cmaev_trainer.shutdown import SHUTDOWN
from cmaev_trainer.supervisor import Ending, Limits, Supervisor

log = structlog.get_logger(__name__)


@app.task(name=TASK_RUN_ATTEMPT)
def run_attempt(attempt_id: str) -> None:
    """Runs one attempt; a delivery whose attempt is leased or over does nothing."""
    settings = load_settings()
    with (
        structlog.contextvars.bound_contextvars(attempt_id=attempt_id),
        connect(settings) as http,
    ):
        supervisor = Supervisor(
            ControlPlane(http, attempt_id=attempt_id),
            worker=settings.worker_name,
            runs_dir=settings.runs_dir.absolute(),
            limits=Limits(
                stop_grace=settings.stop_grace_seconds,
                shutdown_grace=settings.shutdown_grace_seconds,
            ),
            shutdown=SHUTDOWN,
        )
        ending = supervisor.run()
        if ending is Ending.NOT_STARTED:
            # The message is acknowledged already; another worker gets a fresh one.
            app.send_task(TASK_RUN_ATTEMPT, args=[attempt_id], queue=QUEUE)
        log.info("delivery done", ending=ending.value)


def connect(settings: WorkerSettings) -> httpx.Client:
    """A client of the control plane; proxies of the environment are not used."""
    return httpx.Client(
        base_url=str(settings.api_url),
        headers={"Authorization": f"Bearer {settings.read_key()}"},
        timeout=settings.http_timeout_seconds,
        trust_env=False,
    )
