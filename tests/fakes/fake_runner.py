"""A quick runner that keeps the contract: events, a checkpoint a step, exit 75 on SIGTERM.

The job's name says what it does, as `key=value` words: steps, tick (seconds a step), exit, raise
(bad, error, diverged or full), ignore_term, grandchild, and rankN_exit, rankN_kill for one rank of
several.
resumed_tick is the tick of a run that goes on, so that one that was stopped can end quickly.
"""

import argparse
import errno
import json
import os
import signal
import subprocess
import sys
import time

from cmaev_spec.events import OutcomeEvent, ProgressEvent, StartedEvent
from cmaev_spec.exits import BadInput
from cmaev_spec.files import write_atomic
from cmaev_spec.rundir import RunDir, event_line


def main(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", required=True)
    run = RunDir(parser.parse_args(argv).run_dir)
    job = run.next_job()
    options = dict(word.split("=") for word in (job.name or "").split())
    rank = int(os.environ.get("RANK", 0))
    stop = []
    signal.signal(
        signal.SIGTERM,
        signal.SIG_IGN if "ignore_term" in options else lambda *_: stop.append(True),
    )
    sys.stdout.write(f"fake runner, rank {rank}\n")
    sys.stdout.flush()
    if options.get("raise") == "bad":
        raise BadInput("data.index: no such file")
    if options.get("raise") == "error":
        raise RuntimeError("the disk is full")
    if options.get("raise") == "diverged":
        raise FloatingPointError("weights are not finite at step 3")
    if options.get("raise") == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "predictions.csv")
    if rank == 0:
        run.accept(job)
    if "grandchild" in options:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    checkpoint = run.path / f"state-{rank}.json"
    step = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
    tick = float(options.get("tick", 0.01))
    if step:
        tick = float(options.get("resumed_tick", tick))
    total = int(options.get("steps", 3))
    emit(run, StartedEvent(time=time.time(), resumed_step=step, total_steps=total), rank)
    while step < total:
        time.sleep(tick)
        step += 1
        with open(run.path / f"steps-{rank}.txt", "a") as file:
            file.write(f"{step}\n")
        write_atomic(checkpoint, json.dumps(step))
        emit(run, ProgressEvent(time=time.time(), stage="fake", step=step, total_steps=total), rank)
        if stop:
            emit(run, OutcomeEvent(time=time.time(), status="stopped", exit_code=75), rank)
            return 75
        if f"rank{rank}_kill" in options:
            os.kill(os.getpid(), int(options[f"rank{rank}_kill"]))
    code = int(options.get(f"rank{rank}_exit", options.get("exit", 0)))
    if code == 0:
        emit(run, OutcomeEvent(time=time.time(), status="succeeded", exit_code=0), rank)
    return code


def emit(run, event, rank):
    if rank == 0:
        with open(run.events, "a") as file:
            file.write(event_line(event))
