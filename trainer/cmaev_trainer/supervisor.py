"""Runs one attempt from the lease to the outcome.

The control plane decides, this side obeys: only the holder of the lease runs, a lost lease kills
the run at once and silently, and while the control plane is away the run goes on and its events
wait in their file.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

import structlog

from cmaev_spec.exits import EXIT_BAD_INPUT
from cmaev_spec.job import SpecError
from cmaev_spec.rundir import resolve_run
from cmaev_spec.worker_protocol import AttemptReport, DesiredState, LeaseGrant, LeaseRequest
from cmaev_trainer.client import ControlPlane, LeaseLostError, RefusedError
from cmaev_trainer.outcome import result_of
from cmaev_trainer.pace import Pace
from cmaev_trainer.process import RunProcess
from cmaev_trainer.reporter import EventTail, Reporter

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.2
EVENTS_SECONDS = 1.0
RETRY_SECONDS = 0.5
FAREWELL_SECONDS = 4.0
"""How long a worker that is shutting down tries to report before it leaves it to the lease."""
ERROR_CHARACTERS = 4000

Answer = TypeVar("Answer")


class Ending(Enum):
    """What became of a delivery."""

    REPORTED = "reported"
    NOT_OURS = "not ours"
    LEASE_LOST = "lease lost"
    NOT_STARTED = "worker ended before the lease"
    UNREPORTED = "worker ended before the report"


class _WorkerEndsError(Exception):
    """The worker has to end and the control plane does not answer."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a run may take to stop, in seconds."""

    stop_grace: float
    shutdown_grace: float


class Supervisor:
    """Takes the lease of one attempt, runs it and reports.

    Args:
        control: the control plane, for this attempt.
        worker: name of this worker, for people.
        runs_dir: folder that holds one run directory per job id.
        limits: how long a run may take to stop.
        shutdown: set when the worker is asked to end.
    """

    def __init__(
        self,
        control: ControlPlane,
        *,
        worker: str,
        runs_dir: Path,
        limits: Limits,
        shutdown: threading.Event,
    ) -> None:
        self._control = control
        self._worker = worker
        self._runs_dir = runs_dir
        self._limits = limits
        self._shutdown = shutdown
        self._leave_at: float | None = None

    def run(self) -> Ending:
        """Sees the attempt through; what the run or the network does never raises here."""
        request = LeaseRequest(worker=self._worker, host=socket.gethostname(), pid=os.getpid())
        try:
            grant = self._until_answered("lease", lambda: self._control.lease(request))
        except (LeaseLostError, RefusedError) as refusal:
            log.info("attempt is not ours to run", reason=str(refusal))
            return Ending.NOT_OURS
        except _WorkerEndsError:
            return Ending.NOT_STARTED
        with structlog.contextvars.bound_contextvars(job=grant.job_id, attempt=grant.number):
            return self._run_leased(grant)

    def _run_leased(self, grant: LeaseGrant) -> Ending:
        try:
            report = self._start(grant)
            receipt = self._until_answered("outcome", lambda: self._control.report(report))
        except (LeaseLostError, RefusedError) as refusal:
            log.warning("lease lost, run killed", reason=str(refusal))
            return Ending.LEASE_LOST
        except _WorkerEndsError:
            log.warning("worker ends unheard, the lease will run out")
            return Ending.UNREPORTED
        log.info("attempt ended", result=report.result, job_state=str(receipt.state))
        return Ending.REPORTED

    def _start(self, grant: LeaseGrant) -> AttemptReport:
        """Claims the run directory and starts the run."""
        try:
            run = resolve_run(f"job:{grant.job_id}", runs_dir=self._runs_dir)
            run.claim(grant.spec)
            process = RunProcess(run, runs_dir=self._runs_dir)
        except SpecError as error:
            return AttemptReport(
                token=grant.token, result="failed", exit_code=EXIT_BAD_INPUT, error=str(error)
            )
        except OSError as error:
            text = f"the run could not be started: {error}"
            return AttemptReport(token=grant.token, result="crashed", exit_code=None, error=text)
        tail = EventTail(run.events, offset=grant.events_offset)
        reporter = Reporter(self._control, token=grant.token, tail=tail)
        try:
            log.info("run started", pid=process.pid, run_dir=str(run.path))
            code = self._watch(grant, process, reporter)
        finally:
            process.close()
        log.info("run ended", exit_code=code)
        self._until_answered("last events", reporter.flush)
        return self._judge(grant, process, reporter, code)

    def _watch(self, grant: LeaseGrant, process: RunProcess, reporter: Reporter) -> int:
        """Stays with the run until it ends; a refused heartbeat raises."""
        heartbeat = Pace(
            "heartbeat", every=grant.heartbeat_seconds, first_after=grant.heartbeat_seconds
        )
        events = Pace("events", every=EVENTS_SECONDS)
        while (code := process.poll()) is None:
            if self._shutdown.is_set():
                process.ask_to_stop(grace=self._limits.shutdown_grace)
            if heartbeat.due:
                self._obey(heartbeat.attempt(lambda: self._desired(grant)), process)
            if events.due:
                events.attempt(reporter.flush)
            time.sleep(TICK_SECONDS)
        return code

    def _desired(self, grant: LeaseGrant) -> DesiredState:
        return self._control.heartbeat(grant.token).desired

    def _obey(self, desired: DesiredState | None, process: RunProcess) -> None:
        if desired in {"pause", "cancel"} and not process.was_asked_to_stop:
            log.info("stopping on request", desired=desired)
            process.ask_to_stop(grace=self._limits.stop_grace)

    def _judge(
        self, grant: LeaseGrant, process: RunProcess, reporter: Reporter, code: int
    ) -> AttemptReport:
        result = result_of(code, asked_to_stop=process.was_asked_to_stop)
        error: str | None = None
        if process.was_killed:
            error = (
                "killed: it did not stop within its grace; it can go on from its last checkpoint"
            )
        elif result in {"failed", "crashed"}:
            outcome = reporter.outcome(since=process.started_at)
            error = (
                (outcome.error if outcome else None) or process.log_tail() or f"exit code {code}"
            )
            error = error[-ERROR_CHARACTERS:]
        return AttemptReport(token=grant.token, result=result, exit_code=code, error=error)

    def _until_answered(self, what: str, call: Callable[[], Answer]) -> Answer:
        """Repeats `call` until the control plane answers, or the worker has to end."""
        answers: list[Answer] = []
        pace = Pace(what, every=RETRY_SECONDS)
        while not answers:
            if pace.due:
                pace.attempt(lambda: answers.append(call()))
            elif self._has_to_leave():
                raise _WorkerEndsError
            else:
                time.sleep(TICK_SECONDS)
        return answers[0]

    def _has_to_leave(self) -> bool:
        """Whether the worker is ending and has tried long enough."""
        if not self._shutdown.is_set():
            return False
        now = time.monotonic()
        self._leave_at = self._leave_at or now + FAREWELL_SECONDS
        return now > self._leave_at
