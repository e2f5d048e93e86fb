"""Any order of users, workers and sweeps keeps the rules of the job states."""

import secrets
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cmaev_api.attempts.service import AttemptService
from cmaev_api.db import Database
from cmaev_api.errors import ProblemError
from cmaev_api.jobs.service import JobService
from cmaev_api.migrations import upgrade
from cmaev_api.settings import Settings
from cmaev_api.tables import utc_now
from cmaev_spec.events import StartedEvent
from cmaev_spec.job import parse_job
from cmaev_spec.state import TRANSITIONS, JobState, TransitionError
from cmaev_spec.worker_protocol import (
    AttemptReport,
    EventBatch,
    Heartbeat,
    LeaseRequest,
    PositionedEvent,
)

SPEC = {
    "kind": "pretrain",
    "data": {"index": "/videos/train.csv"},
    "optim": {"base_lr": 1e-3, "batch_size": 4, "epochs": 1},
}
OFFER = LeaseRequest(worker="w", host="h", pid=1)


class Recorder:
    """Keeps what would have been sent to the workers."""

    def __init__(self):
        self.sent = []

    def send(self, attempt_id):
        self.sent.append(attempt_id)
        return True


class JobMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = TemporaryDirectory()
        self.database = Database(f"sqlite:///{Path(self.folder.name) / 'db'}")
        upgrade(self.database.engine)
        self.settings = Settings(shared_files=False, max_attempts=2)
        self.recorder = Recorder()
        self.grants = []
        self.offset = 0
        self.job_id = self.call(
            JobService,
            lambda jobs: jobs.submit(parse_job(SPEC), idempotency_key=secrets.token_hex())[0].id,
        )
        self.seen = self.read()

    def call(self, service, action):
        """One request; a refusal must leave everything as it was."""
        with self.database.write() as session:
            return action(service(session, dispatcher=self.recorder, settings=self.settings))

    def attempt(self, service, action):
        before = self.read() if hasattr(self, "job_id") else None
        try:
            return self.call(service, action)
        except (ProblemError, TransitionError) as error:
            status = getattr(error, "status_code", 409)
        assert (status, self.read()) == (409, before)
        return None

    def read(self):
        return self.call(JobService, lambda jobs: jobs.read(self.job_id))

    @rule(action=st.sampled_from(["cancel", "pause", "resume"]))
    def user_acts(self, action):
        self.attempt(JobService, lambda jobs: getattr(jobs, action)(self.job_id))

    @rule(number=st.integers(0, 9))
    def worker_leases(self, number):
        sent = self.recorder.sent
        attempt_id = sent[number % len(sent)]
        grant = self.attempt(AttemptService, lambda protocol: protocol.lease(attempt_id, OFFER))
        if grant is not None:
            assert all(grant.token > old.token for old in self.grants)
            self.grants.append(grant)

    @precondition(lambda self: self.grants)
    @rule(number=st.integers(0, 3), late=st.booleans())
    def worker_reports_events(self, number, late):
        grant = self.grants[-1 - number % len(self.grants)]
        self.offset += 0 if late else 10
        event = PositionedEvent(end_offset=max(1, self.offset), event=StartedEvent(time=1.0))
        batch = EventBatch(token=grant.token, events=(event,))
        self.attempt(AttemptService, lambda protocol: protocol.record(grant.attempt_id, batch))

    @precondition(lambda self: self.grants)
    @rule(number=st.integers(0, 3))
    def worker_beats(self, number):
        grant = self.grants[-1 - number % len(self.grants)]
        beat = Heartbeat(token=grant.token)
        reply = self.attempt(
            AttemptService, lambda protocol: protocol.heartbeat(grant.attempt_id, beat)
        )
        if reply is not None:
            wanted = {JobState.PAUSING: "pause", JobState.CANCELLING: "cancel"}
            assert reply.desired == wanted.get(self.read().state, "run")

    @precondition(lambda self: self.grants)
    @rule(
        number=st.integers(0, 3),
        result=st.sampled_from(["succeeded", "failed", "stopped", "crashed", "crashed"]),
    )
    def worker_reports_the_end(self, number, result):
        grant = self.grants[-1 - number % len(self.grants)]
        report = AttemptReport(token=grant.token, result=result, exit_code=1)
        self.attempt(AttemptService, lambda protocol: protocol.report(grant.attempt_id, report))

    @precondition(lambda self: self.grants)
    @rule()
    def sweeper_finds_a_lost_lease(self):
        later = utc_now() + timedelta(hours=1)
        attempt_id = self.grants[-1].attempt_id
        self.attempt(AttemptService, lambda protocol: protocol.expire(attempt_id, now=later))

    @invariant()
    def rules_hold(self):
        job, before = self.read(), self.seen
        if job.state != before.state:
            assert _reachable(before.state, job.state), f"{before.state} -> {job.state}"
        if before.state.terminal:
            assert job == before
        queued = [item for item in job.attempts if item.state == "queued"]
        leased = [item for item in job.attempts if item.state == "leased"]
        held = {JobState.STARTING, JobState.RUNNING, JobState.PAUSING, JobState.CANCELLING}
        assert len(queued) == (job.state == JobState.QUEUED)
        assert len(leased) == (job.state in held)
        assert {item.id for item in job.attempts} == set(self.recorder.sent)
        assert (job.finished_at is not None) == job.state.terminal
        self.seen = job

    def teardown(self):
        self.database.close()
        self.folder.cleanup()


def _reachable(old, new):
    """One rule may take two steps, as a restart through waiting does."""
    return new in TRANSITIONS[old] or any(new in TRANSITIONS[step] for step in TRANSITIONS[old])


JobMachine.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
test_any_order_keeps_the_rules = JobMachine.TestCase
