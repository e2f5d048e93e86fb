"""Runs that are killed by kill -9 at chosen points and at random times, and started again."""

import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

import psutil
from runs import losses

from cmaev.engine.checkpoint import MODEL_FILE, load_model_state, load_training_state
from cmaev_spec import faults

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # the launcher, or a rank as it tells of it


@dataclass(frozen=True)
class Kill:
    """How one attempt ends, unless it finishes before."""

    point: str | None
    """A point of `cmaev_spec.faults`; None is a random time."""
    rows: int = 0
    """At a random time: once the attempt has logged so many steps,"""
    delay: float = 0.0
    """and so many seconds have passed."""
    victim: int = 0
    """0: who was started; with several ranks n: rank n - 1."""

    @property
    def where(self):
        return (self.point or "random time").partition("#")[0]


def plan(rng, points, *, random_times, ranks):
    """One kill at each point, and some at random times, in random order."""
    kills = [Kill(f"{point}#{rng.randint(1, 2)}") for point in points]
    for _ in range(random_times):
        kills.append(
            Kill(
                None,
                rows=rng.randint(0, 6),
                delay=rng.uniform(0, 0.3),
                victim=rng.randint(0, ranks if ranks > 1 else 0),
            )
        )
    rng.shuffle(kills)
    return kills


def spread(seed, *, configurations, points_each, random_each):
    """Points for each configuration, so that over all of them every point has its turns."""
    rng = random.Random(seed)
    turns = []
    while len(turns) < len(configurations) * points_each:
        turns += rng.sample(faults.POINTS, len(faults.POINTS))
    return {
        (workers, ranks): plan(
            rng,
            turns[number * points_each : (number + 1) * points_each],
            random_times=random_each,
            ranks=ranks,
        )
        for number, (workers, ranks) in enumerate(configurations)
    }


def drill(server, run, kills):
    """Starts a run until it finishes; every attempt but the last is killed as `kills` says.

    Args:
        server: starts it.
        run: a claimed run directory.
        kills: a deque; those that hit are taken off, and what is left when the run finishes stays.

    Returns:
        The kills that hit.
    """
    hit = []
    while True:
        kill = kills[0] if kills else None
        before = _whole_lines(run.events)
        variables = {faults.VARIABLE: kill.point} if kill and kill.point else {}
        pid = server.start(run, **variables)
        if kill and kill.point is None:
            _strike(pid, run, kill)
        code = server.wait()
        assert _whole_lines(run.events).startswith(before), "events were cut back"
        if code == 0:
            return hit
        assert kill is not None, run.log.read_text()
        assert code in KILLED, f"{kill}: exit code {code}\n{run.log.read_text()}"
        hit.append(kills.popleft())


def _strike(pid, run, kill):
    """Kills at a random time, unless the run has finished by then."""
    least = before = _rows(run)
    while psutil.pid_exists(pid) and (rows := _rows(run)) < least + kill.rows:
        if rows < before:  # cut back to the checkpoint
            least = before = rows
        time.sleep(0.01)
    time.sleep(kill.delay)
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(pid)
        ranks = sorted(started.children(), key=lambda child: child.pid)
        [started, *ranks][min(kill.victim, len(ranks))].kill()


def _rows(run):
    return len(_whole_lines(run.metrics).splitlines())


def _whole_lines(path):
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def outcome(run):
    """All that has to be equal bit for bit: losses, weights and the rest of the state."""
    newest = run.complete_checkpoints()[-1]
    assert (newest / MODEL_FILE).is_file()
    return losses(run), load_model_state(newest), load_training_state(newest)
