"""The worker protocol, on SQLite and PostgreSQL: leases, fencing, repeats, outcomes."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from cmaev_spec.job import parse_job

STARTED = {"type": "started"}
LEASE = {"worker": "w", "host": "h", "pid": 1}


@pytest.fixture
def plane(any_plane):
    """Every test of this file runs on both databases."""
    return any_plane


def progress(step):
    return {"type": "progress", "stage": "pretrain", "step": step, "total_steps": 10}


def metric(step, **values):
    return {"type": "metric", "step": step, "values": values}


def test_a_job_from_lease_to_success(plane, specs, submit):
    job = submit()
    grant = plane.lease(job)
    assert (grant["job_id"], grant["number"], grant["events_offset"]) == (job, 1, 0)
    assert parse_job(grant["spec"]) == parse_job(specs())
    assert (grant["lease_seconds"], grant["heartbeat_seconds"]) == (30, 5)
    assert plane.state(job) == "starting"
    assert plane.beat(grant).json() == {"desired": "run"}
    receipt = plane.events(grant, STARTED, progress(3), metric(3, loss=0.5), metric(4, lr=0.1))
    assert receipt.json() == {"events_offset": 400}
    seen = plane.job(job)
    assert seen["state"] == "running"
    assert seen["progress"]["step"] == 3
    assert seen["metrics"] == {"loss": 0.5, "lr": 0.1, "step": 4}
    outcome = {"type": "outcome", "status": "succeeded", "exit_code": 0, "summary": {"top1": 0.9}}
    plane.events(grant, outcome, start=400)
    assert plane.report(grant, "succeeded").json() == {"state": "succeeded"}
    seen = plane.job(job)
    assert seen["summary"] == {"top1": 0.9}
    assert seen["started_at"] <= seen["finished_at"]
    assert [(item["result"], item["error"]) for item in seen["attempts"]] == [("succeeded", None)]


def test_of_many_workers_one_gets_the_lease(plane, submit):
    attempt = plane.attempt(submit())

    def lease(number):
        body = {**LEASE, "worker": f"w{number}"}
        return plane.worker.post(f"/v1/attempts/{attempt}:lease", json=body)

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lease, range(8)))
    assert sorted(response.status_code for response in responses) == [200] + [409] * 7
    refused = next(response.json() for response in responses if response.status_code == 409)
    assert "leased by w" in refused["detail"]


def test_an_old_token_is_refused_everywhere(plane, submit):
    job = submit()
    old = plane.lease(job)
    plane.report(old, "stopped")
    new = plane.lease(job)
    assert new["token"] > old["token"]
    ghost = {**new, "token": old["token"]}
    for response in (
        plane.beat(old),
        plane.events(old, STARTED),
        plane.report(old, "succeeded"),
        plane.beat(ghost),
        plane.events(ghost, STARTED),
        plane.report(ghost, "succeeded"),
    ):
        assert response.status_code == 409
        assert response.json()["field"] == "token"
    assert plane.state(job) == "starting"
    assert plane.beat(new).status_code == 200


def test_events_are_stored_once_however_often_they_come(plane, submit):
    job = submit()
    grant = plane.lease(job)
    plane.events(grant, STARTED, progress(1))
    again = plane.events(grant, STARTED, progress(1), progress(2))
    assert again.json() == {"events_offset": 300}
    assert plane.events(grant, STARTED).json() == {"events_offset": 300}
    items = plane.user.get(f"/v1/jobs/{job}/events").json()["items"]
    assert [item["end_offset"] for item in items] == [100, 200, 300]
    assert [item["event"]["type"] for item in items] == ["started", "progress", "progress"]
    plane.report(grant, "crashed")
    assert plane.lease(job)["events_offset"] == 300


def test_a_number_that_is_none_does_not_stop_the_report(plane, submit):
    job = submit()
    grant = plane.lease(job)
    event = '{"time":1.0,"type":"metric","step":1,"values":{"loss":NaN}}'
    body = f'{{"token":{grant["token"]},"events":[{{"end_offset":9,"event":{event}}}]}}'
    url = f"/v1/attempts/{grant['attempt_id']}/events"
    headers = {"Content-Type": "application/json"}
    assert plane.worker.post(url, content=body, headers=headers).status_code == 200
    assert plane.job(job)["metrics"] == {"loss": None, "step": 1}


def test_a_repeated_report_is_answered_like_the_first(plane, submit):
    job = submit()
    grant = plane.lease(job)
    first = plane.report(grant, "failed", error="labels out of range")
    assert plane.report(grant, "failed").json() == first.json() == {"state": "failed"}
    assert plane.report(grant, "succeeded").status_code == 409
    assert plane.job(job)["error"] == "labels out of range"


def test_a_run_that_its_worker_stopped_goes_on_and_costs_no_attempt(plane, submit, sent):
    job = submit()
    for number in range(1, 5):  # more often than max_attempts
        grant = plane.lease(job)
        assert grant["number"] == number
        assert plane.report(grant, "stopped").json() == {"state": "queued"}
    assert len(set(sent())) == 5


def test_crashes_are_tried_again_up_to_the_limit(plane, submit):
    job = submit()
    assert plane.report(plane.lease(job), "crashed", error="killed").json() == {"state": "queued"}
    assert plane.report(plane.lease(job), "crashed", error="killed").json() == {"state": "failed"}
    assert plane.job(job)["error"] == "given up after 2 interrupted attempts; the last: killed"


@pytest.mark.parametrize("result", ["stopped", "crashed"])
@pytest.mark.parametrize(
    ("action", "between", "after"),
    [("pause", "pausing", "paused"), ("cancel", "cancelling", "cancelled")],
)
def test_a_running_job_is_paused_and_cancelled_by_the_heartbeat(
    plane, submit, action, between, after, result
):
    job = submit()
    grant = plane.lease(job)
    plane.events(grant, STARTED)
    for _repeat in range(2):
        assert plane.user.post(f"/v1/jobs/{job}:{action}").json()["state"] == between
    assert plane.beat(grant).json() == {"desired": action}
    assert plane.report(grant, result).json() == {"state": after}


def test_a_cancel_beats_a_pause_and_a_success_beats_both(plane, submit):
    job = submit()
    grant = plane.lease(job)
    plane.user.post(f"/v1/jobs/{job}:pause")
    assert plane.user.post(f"/v1/jobs/{job}:resume").status_code == 409
    plane.user.post(f"/v1/jobs/{job}:cancel")
    assert plane.beat(grant).json() == {"desired": "cancel"}
    assert plane.user.post(f"/v1/jobs/{job}:pause").status_code == 409
    assert plane.report(grant, "succeeded").json() == {"state": "succeeded"}


def test_a_resumed_job_runs_with_a_new_attempt(plane, submit):
    job = submit()
    grant = plane.lease(job)
    plane.user.post(f"/v1/jobs/{job}:pause")
    plane.report(grant, "stopped")
    assert plane.user.post(f"/v1/jobs/{job}:resume").json()["state"] == "queued"
    again = plane.lease(job)
    assert (again["number"], plane.beat(again).json()) == (2, {"desired": "run"})


def test_an_unknown_attempt_is_not_found(plane):
    assert plane.worker.post("/v1/attempts/nope:lease", json=LEASE).status_code == 404
    beat = plane.worker.post("/v1/attempts/nope:heartbeat", json={"token": 1})
    assert beat.status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {**LEASE, "pid": 2**40},
        {**LEASE, "worker": "w" * 301},
        {**LEASE, "extra": 1},
    ],
)
def test_a_request_that_no_database_could_store_is_refused(plane, submit, body):
    attempt = plane.attempt(submit())
    response = plane.worker.post(f"/v1/attempts/{attempt}:lease", json=body)
    assert response.status_code == 422
    beat = plane.worker.post(f"/v1/attempts/{attempt}:heartbeat", json={"token": 2**80})
    assert (beat.status_code, beat.json()["field"]) == (422, "token")


def test_an_error_may_hold_any_character(plane, submit):
    job = submit()
    plane.report(plane.lease(job), "failed", error="bad \0 byte: ü")
    assert plane.job(job)["error"] == "bad  byte: ü"
