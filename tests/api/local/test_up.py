"""`cmaev up` with the real broker, control plane and worker; only the runner is quick."""

import os
import signal
import socket
import stat

import pytest


def test_jobs_run_survive_a_killed_worker_and_end_on_request(local_stack):
    local_stack.start("--no-serving")
    key = (local_stack.state / "api-key").read_text()
    assert f"API key: {key}\n" in local_stack.output
    assert f"export CMAEV_STATE_DIR={local_stack.state}\n" in local_stack.output
    for name in ("api-key", "worker-key", "stack.json"):
        assert stat.S_IMODE((local_stack.state / name).stat().st_mode) == 0o600

    quick = local_stack.submit("steps=3")
    assert local_stack.wait_for_state(quick, "succeeded")["progress"]["step"] == 3
    bad = local_stack.submit("raise=bad")
    assert local_stack.wait_for_state(bad, "failed")["error"] == "data.index: no such file"

    job = local_stack.submit("steps=200 tick=0.1 resumed_tick=0 grandchild=1")
    local_stack.eventually(lambda: len(local_stack.steps(job)) > 3)
    before = local_stack.pid("worker-1")
    os.kill(before, signal.SIGKILL)
    state = local_stack.wait_for_state(job, "succeeded")
    assert [attempt["result"] for attempt in state["attempts"]] == ["lost", "succeeded"]
    steps = local_stack.steps(job)
    assert sorted(set(steps)) == list(range(1, 201))
    assert len(steps) <= 201
    assert local_stack.pid("worker-1") != before

    paused = local_stack.submit("steps=200 tick=0.1 resumed_tick=0")
    local_stack.eventually(lambda: local_stack.steps(paused))
    local_stack.call("POST", f"/v1/jobs/{paused}:pause")
    local_stack.wait_for_state(paused, "paused")
    made = len(local_stack.steps(paused))
    assert made < 200
    local_stack.call("POST", f"/v1/jobs/{paused}:resume")
    local_stack.wait_for_state(paused, "succeeded")
    assert local_stack.steps(paused) == list(range(1, 201))

    cancelled = local_stack.submit("steps=8000 tick=0.05")
    local_stack.eventually(lambda: local_stack.steps(cancelled))
    local_stack.call("POST", f"/v1/jobs/{cancelled}:cancel")
    local_stack.wait_for_state(cancelled, "cancelled")

    code = local_stack.stop()
    assert code == 0, local_stack.output
    assert local_stack.output.splitlines()[-1] == "stopped"
    assert local_stack.alive() == []
    assert not (local_stack.state / "stack.json").exists()
    assert sorted(path.name for path in local_stack.folder.iterdir()) == ["index.csv", "state"]


def test_a_job_outlives_its_stack(local_stack):
    local_stack.start("--no-serving")
    job = local_stack.submit("steps=200 tick=0.1 resumed_tick=0.05 grandchild=1")
    local_stack.eventually(lambda: len(local_stack.steps(job)) > 3)
    assert local_stack.stop() == 0
    made = local_stack.steps(job)
    assert made == list(range(1, len(made) + 1))
    assert len(made) < 200
    assert local_stack.alive() == []

    process = local_stack.start("--no-serving")
    assert "API key: " not in local_stack.output
    local_stack.eventually(lambda: len(local_stack.steps(job)) > len(made))
    assert len(local_stack.alive()) >= 7  # up, wrapper, Valkey, API, worker, run, its child
    process.kill()
    process.communicate()
    local_stack.eventually(lambda: not local_stack.alive(), what="nothing is left")

    local_stack.start("--no-serving")
    local_stack.wait_for_state(job, "succeeded")
    assert sorted(set(local_stack.steps(job))) == list(range(1, 201))
    assert len(local_stack.steps(job)) <= 201


@pytest.mark.slow
def test_every_service_may_die_once_while_a_job_runs(local_stack):
    local_stack.start("--no-serving")
    job = local_stack.submit("steps=150 tick=0.05")
    local_stack.eventually(lambda: len(local_stack.steps(job)) > 3)
    for service in ("api", "valkey"):
        local_stack.kill_and_wait_for_restart(service)
    local_stack.eventually(lambda: local_stack.answers("/readyz"))
    assert len(local_stack.wait_for_state(job, "succeeded")["attempts"]) == 1
    again = local_stack.submit("steps=3")
    local_stack.wait_for_state(again, "succeeded")


def test_a_second_stack_and_a_taken_port_are_refused(local_stack):
    local_stack.start("--no-serving", "--workers", "0")
    first = local_stack.process
    second = local_stack.start("--no-serving", ready=False)
    output, _ = second.communicate(timeout=60)
    local_stack.process = first
    assert second.returncode == 64
    assert output.startswith(f"error: a stack is running on {local_stack.state} already (process ")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        third = local_stack.start(
            "--state", str(local_stack.folder / "other"), "--port", str(port), ready=False
        )
        output, _ = third.communicate(timeout=60)
    local_stack.process = first
    assert third.returncode == 64
    assert f"port {port} on 127.0.0.1 is already taken; choose another with --port" in output
    code = local_stack.stop()
    assert code == 0, local_stack.output
