"""Telling the workers that there is work: a Celery task by name, with nothing but an id.

The broker carries hints, not state. A hint that is lost is sent again by the sweeper, and one that
arrives twice finds the attempt leased already.
"""

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError

from cmaev_spec.wire import QUEUE, TASK_RUN_ATTEMPT

TIMEOUT_SECONDS = 2
PING_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Dispatcher:
    """A Celery client that can only say "run this attempt"."""

    def __init__(self, redis_url: str) -> None:
        self._celery = Celery("cmaev_api", broker=redis_url, set_as_current=False)
        self._celery.conf.update(
            task_serializer="json",
            task_ignore_result=True,
            task_default_queue=QUEUE,
            broker_connection_timeout=TIMEOUT_SECONDS,
            broker_transport_options={
                "socket_connect_timeout": TIMEOUT_SECONDS,
                "socket_timeout": TIMEOUT_SECONDS,
                "max_retries": 0,
            },
        )

    def send(self, attempt_id: str) -> bool:
        """Sends the task for an attempt; returns whether the broker took it."""
        try:
            self._celery.send_task(
                TASK_RUN_ATTEMPT, args=[attempt_id], queue=QUEUE, ignore_result=True, retry=False
            )
        except (OperationalError, OSError) as error:
            log.warning("broker_unreachable", attempt=attempt_id, error=str(error))
            return False
        log.info("attempt_sent", attempt=attempt_id)
        return True

    def check(self) -> str | None:
        """Returns what is wrong with the broker, or None."""
        try:
            with self._celery.connection_for_write() as connection:
                connection.ensure_connection(max_retries=0, timeout=TIMEOUT_SECONDS)  # pings
        except (OperationalError, OSError) as error:
            return str(error) or type(error).__name__
        return None

    def count_workers(self) -> int:
        """Asks all workers whether they are there; returns how many say so within a second."""
        try:
            return len(self._celery.control.ping(timeout=PING_SECONDS) or ())
        except (OperationalError, OSError, RedisError):
            return 0

    def close(self) -> None:
        """Closes the connections to the broker."""
        self._celery.close()
