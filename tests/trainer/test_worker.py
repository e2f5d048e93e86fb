"""A real worker process, woken by a real broker, supervising real runs."""

import os
import signal
import time

from cmaev_spec.rundir import RunDir


def test_job_succeeds_and_a_second_delivery_does_nothing(fleet, plane, eventually):
    fleet.start()
    fleet.deliver()
    eventually(lambda: plane.result == "succeeded")
    run = RunDir(fleet.runs_dir / plane.job_id)
    assert run.log.read_text() == "fake runner, rank 0\n"
    assert run.read_job() == plane.spec
    assert [item.event.type for item in plane.events] == [
        "started",
        "progress",
        "progress",
        "progress",
        "outcome",
    ]
    assert plane.offset == run.events.stat().st_size
    fleet.deliver()
    fleet.deliver("unknown")
    eventually(lambda: fleet.deliveries_done() == 3)
    assert plane.grants == 1
    assert fleet.steps() == [1, 2, 3]


def test_pause_and_resume(fleet, plane, eventually):
    plane.use("steps=200 tick=0.1 resumed_tick=0 grandchild=1")
    fleet.start()
    fleet.deliver()
    eventually(lambda: fleet.steps())
    plane.desired = "pause"
    eventually(lambda: plane.result == "stopped")
    assert plane.report is not None
    assert plane.report.exit_code == 75
    eventually(lambda: len(fleet.alive()) == 1, what="only the worker is left")
    plane.desired, plane.report = "run", None
    plane.expire()
    fleet.deliver("attempt-2")
    eventually(lambda: plane.result == "succeeded")
    assert fleet.steps() == list(range(1, 201))


def test_cancel_kills_a_run_that_does_not_listen(fleet, plane, eventually):
    plane.use("steps=4000 tick=0.05 ignore_term=1 grandchild=1")
    fleet.start(CMAEV_STOP_GRACE_SECONDS="2")
    fleet.deliver()
    eventually(lambda: fleet.steps())
    plane.desired = "cancel"
    eventually(lambda: plane.result == "stopped")
    assert plane.report is not None
    assert plane.report.exit_code == -9
    eventually(lambda: len(fleet.alive()) == 1)


def test_kill_9_of_the_worker_ends_its_run_and_the_next_worker_resumes(fleet, plane, eventually):
    plane.use("steps=200 tick=0.1 resumed_tick=0 grandchild=1")
    worker = fleet.start()
    fleet.deliver()
    eventually(lambda: len(fleet.steps()) > 3)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    eventually(lambda: not fleet.alive(), what="the run is gone")
    assert plane.report is None
    plane.expire()
    fleet.start()
    fleet.deliver("attempt-2")
    eventually(lambda: plane.result == "succeeded")
    assert sorted(set(fleet.steps())) == list(range(1, 201))
    assert len(fleet.steps()) <= 201
    assert [e.event.type for e in plane.events].count("started") == 2


def test_lost_lease_kills_the_run_silently(fleet, plane, eventually):
    plane.use("steps=4000 tick=0.05")
    fleet.start()
    fleet.deliver()
    eventually(lambda: fleet.steps())
    plane.lose_lease = True
    eventually(lambda: len(fleet.alive()) == 1)
    eventually(lambda: fleet.deliveries_done() == 1)
    assert plane.report is None
    assert "lease lost" in fleet.log.read_text()


def test_the_run_goes_on_while_the_control_plane_is_away(fleet, plane, eventually):
    plane.use("steps=30 tick=0.1")
    fleet.start()
    fleet.deliver()
    eventually(lambda: fleet.steps())
    plane.down = True
    eventually(lambda: len(fleet.steps()) == 30)
    time.sleep(0.5)
    assert plane.report is None
    plane.down = False
    eventually(lambda: plane.result == "succeeded")
    assert [item.event.type for item in plane.events].count("progress") == 30


def test_sigterm_to_the_worker_saves_and_reports(fleet, plane, eventually):
    plane.use("steps=4000 tick=0.05")
    worker = fleet.start()
    fleet.deliver()
    eventually(lambda: fleet.steps())
    worker.terminate()
    assert worker.wait(timeout=60) == 0  # the run itself would go on for minutes
    assert plane.result == "stopped"
    eventually(lambda: not fleet.alive(), what="nothing is left")


def test_a_busy_worker_leaves_the_next_job_to_others(fleet, plane, eventually):
    plane.use("steps=4000 tick=0.05")
    fleet.start()
    fleet.deliver()
    eventually(lambda: fleet.steps())
    fleet.deliver("unknown")
    time.sleep(1.5)
    assert fleet.deliveries_done() == 0
    fleet.start()
    eventually(lambda: fleet.deliveries_done() == 1)
    assert plane.report is None


def test_a_delivery_before_the_control_plane_is_up_waits_for_it(fleet, plane, eventually):
    plane.down = True
    worker = fleet.start()
    fleet.deliver()
    eventually(lambda: fleet.log.exists() and "unreachable" in fleet.log.read_text())
    worker.terminate()
    assert worker.wait(timeout=60) == 0
    plane.down = False
    fleet.start()
    eventually(lambda: plane.result == "succeeded")


def test_failures_carry_their_reason(fleet, plane, eventually):
    plane.use("raise=bad")
    fleet.start()
    fleet.deliver()
    eventually(lambda: plane.result == "failed")
    assert (plane.report.exit_code, plane.report.error) == (64, "data.index: no such file")
    for name, expected in [
        ("exit=3", ("failed", 3, "fake runner, rank 0")),
        ("rank0_kill=9", ("crashed", -9, "fake runner, rank 0")),
    ]:
        plane.next_job(name)
        fleet.deliver()
        eventually(lambda: plane.report is not None)
        assert (plane.report.result, plane.report.exit_code, plane.report.error) == expected


def test_a_folder_that_belongs_to_another_run_fails_the_attempt(fleet, plane, eventually):
    folder = fleet.runs_dir / plane.job_id
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("not ours")
    fleet.start()
    fleet.deliver()
    eventually(lambda: plane.result == "failed")
    assert plane.report.exit_code == 64
    assert "is not empty" in plane.report.error
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_a_job_id_cannot_lead_out_of_the_runs_folder(fleet, plane, eventually):
    plane.job_id = "../../etc"
    fleet.start()
    fleet.deliver()
    eventually(lambda: plane.result == "failed")
    assert "is not a job id" in plane.report.error
