"""The Celery application: `celery -A cmaev_trainer.app worker`, or `python -m cmaev_trainer`.

A worker is one process with one slot. It supervises runs and never computes, so it does not import
torch. The broker only wakes workers up: messages are acknowledged before the work starts and
nothing relies on redelivery; whether an attempt runs is decided by its lease.
"""

from typing import Any

from celery import Celery, signals

from cmaev_spec import lifeline
from cmaev_spec.wire import QUEUE
from cmaev_trainer.logs import configure_logging
from cmaev_trainer.settings import load_settings
from cmaev_trainer.shutdown import SHUTDOWN


def configuration() -> dict[str, Any]:
    """Celery's settings; read from the environment when the worker needs them, not at import."""
    return {
        "broker_url": load_settings().redis_url.get_secret_value(),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_default_queue": QUEUE,
        "worker_pool": "threads",
        "worker_concurrency": 1,
        "worker_prefetch_multiplier": 1,
        # Else a busy worker would hold back a second job that an idle one could run.
        "worker_disable_prefetch": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


app = Celery("cmaev_trainer", include=["cmaev_trainer.tasks"], set_as_current=False)
app.add_defaults(configuration)


@signals.worker_init.connect
def on_start(**_: object) -> None:
    """Ends this worker, and by its own lifeline its run, when the parent process dies."""
    lifeline.watch()


@signals.worker_shutting_down.connect
def on_shutdown(**_: object) -> None:
    """Tells the supervisor to stop its run; Celery waits for it."""
    SHUTDOWN.set()


@signals.setup_logging.connect
def on_logging(**_: object) -> None:
    """Keeps Celery from configuring the log."""
    configure_logging()
