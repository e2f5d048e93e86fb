"""A run that is killed or stopped, and started again, is the uninterrupted run, bit for bit."""

import os
import random
import signal
import sys
import time
from collections import Counter, deque
from functools import cache, partial

import pytest
import torch
from drills import Kill, drill, outcome, plan, spread
from runs import equal, events, job, losses
from warm import warm

from cmaev.engine.checkpoint import newest_checkpoint
from cmaev_spec.checkpoint import peek_manifest
from cmaev_spec.exits import EXIT_STOPPED
from cmaev_spec.rundir import RunDir

STEPS, EPOCHS = 4, 6
CONFIGURATIONS = [(workers, ranks) for ranks in (1, 2) for workers in (0, 2)]


@pytest.fixture(scope="module")
def server():
    with warm() as started:
        yield started


@pytest.fixture(scope="module")
def make_run(videos, tmp_path_factory):
    def make(*, workers=0, ranks=1):
        run = RunDir(tmp_path_factory.mktemp("run") / "run")
        spec = job(
            "pretrain",
            videos,
            data__workers=workers,
            resources={"threads": 1, "processes_per_node": ranks},
            optim__batch_size=16 // STEPS,
            optim__epochs=EPOCHS,
        )
        run.claim(spec)
        return run

    return make


@pytest.fixture(scope="module")
def whole(server, make_run):
    """What an uninterrupted run comes to, by number of loader processes and ranks."""

    @cache
    def outcome_of(*, workers=0, ranks=1):
        return finish(server, make_run(workers=workers, ranks=ranks))

    return outcome_of


def finish(server, run):
    server.start(run)
    assert server.wait() == 0, run.log.read_text()
    return outcome(run)


def killed_runs_come_to(expected, server, make, kills):
    """Makes runs until all kills have hit; tells how many it took."""
    kills, runs = deque(kills), 0
    while kills:
        assert runs < 10, f"kills that do not hit: {kills}"
        run = make()
        hit = drill(server, run, kills)
        assert equal(outcome(run), expected), hit
        names = [path.name for path in sorted(run.checkpoints.iterdir())]
        assert names == ["step-00000020", "step-00000024"], hit
        runs += 1
    return runs


@pytest.mark.parametrize(
    ("workers", "points"), [(0, ["write:manifest.json", "checkpoint:renamed"]), (2, [])]
)
def test_a_killed_run_is_the_uninterrupted_one(server, make_run, whole, workers, points):
    """Four of the sixty kills; the others take minutes. Loader processes change no result."""
    kills = plan(random.Random(workers), points, random_times=1, ranks=1)
    killed_runs_come_to(whole(), server, partial(make_run, workers=workers), kills)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("workers", "ranks"), CONFIGURATIONS)
def test_a_run_killed_often_is_the_uninterrupted_one(server, make_run, whole, workers, ranks):
    kills = spread(seed=1, configurations=CONFIGURATIONS, points_each=9, random_each=5)
    chosen = kills[workers, ranks]
    begin = time.monotonic()
    configuration = {"workers": workers, "ranks": ranks}
    expected = whole(**configuration)
    runs = killed_runs_come_to(expected, server, partial(make_run, **configuration), chosen)
    sys.stdout.write(
        f"\n{len(chosen)} kills, {workers} loader workers, {ranks} ranks, {runs} runs, "
        f"{time.monotonic() - begin:.0f} s: {dict(Counter(kill.where for kill in chosen))}\n"
    )


def stop_after(server, run, step):
    """SIGTERM once `step` is logged; returns the steps of the checkpoint and of the last row."""
    pid = server.start(run)
    while not any(row["step"] >= step for row in losses(run)):
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    assert server.wait() == EXIT_STOPPED, run.log.read_text()
    assert events(run)[-1].status == "stopped"
    newest = newest_checkpoint(run)
    return peek_manifest(newest).step, losses(run)[-1]["step"]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stop_loses_no_step(server, make_run, whole, ranks):
    run = make_run(ranks=ranks)
    for step in (2, 9):
        saved, logged = stop_after(server, run, step)
        assert saved == logged >= step
    assert equal(finish(server, run), whole(ranks=ranks))


@pytest.mark.slow
@pytest.mark.parametrize("point", ["write:manifest.json#2", "write:predictions.csv"])
def test_a_kill_while_figures_are_noted_loses_none(server, videos, tmp_path, point):
    """The second manifest is the first with figures; predictions are written in the last epoch."""
    runs = RunDir(tmp_path / "whole"), RunDir(tmp_path / "parts")
    for run in runs:
        run.claim(job("finetune", videos, resources={"threads": 1}, run__eval_every=1))
    expected = finish(server, runs[0])
    assert len(drill(server, runs[1], deque([Kill(point)]))) == 1
    assert equal(outcome(runs[1]), expected)
    assert [row["step"] for row in losses(runs[1]) if "val_top1" in row] == [2, 4]
    figures = [peek_manifest(path).figures for path in runs[1].complete_checkpoints()]
    assert [set(each) for each in figures] == [{"num_videos", "top1", "macro_recall"}] * 2


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_ranks(server, make_run, whole, before, after):
    """From the middle of an epoch: the same samples, so the same losses but for rounding."""
    expected, weights, _ = whole(ranks=before)
    run = make_run(ranks=before)
    saved, _ = stop_after(server, run, 2)
    assert saved % STEPS
    run.claim(make_run(ranks=after).read_job())
    moved, moved_weights, _ = finish(server, run)
    assert [row["step"] for row in moved] == [row["step"] for row in expected]
    assert moved[:saved] == expected[:saved]
    assert [row["loss"] for row in moved] == pytest.approx(
        [row["loss"] for row in expected], abs=1e-5
    )
    # One by one they may differ: Adam makes steps of the rounding where a gradient is zero.
    one, other = (
        torch.cat([state[name].flatten() for name in weights]) for state in (weights, moved_weights)
    )
    assert (one - other).norm() < 1e-4 * one.norm()
