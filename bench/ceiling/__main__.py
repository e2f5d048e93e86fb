"""`python -m bench.ceiling --data $CMAEV_TEST_DATA/ceiling --out DIR`; goes on where it stopped."""

import argparse
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path

import torch
from bench.ceiling.arms import Source
from bench.ceiling.budget import BUDGETS
from bench.ceiling.clips import FOLDS, index, read_clips, write_indexes
from bench.ceiling.report import report
from bench.ceiling.running import Resident
from bench.ceiling.study import Study, Task


def main(argv: Sequence[str]) -> int:
    """Runs what is not done yet, then prints the tables; 1 if a task failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.ceiling", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the clips")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", choices=BUDGETS, default="gpu")
    parser.add_argument("--folds", default="0,1,2,3", help="test folds, some of: %(default)s")
    parser.add_argument("--grid", action="store_true", help="also weights of the contrast x shifts")
    parser.add_argument("--processes", type=int, default=1, help="that share the device")
    parser.add_argument("--minutes", type=float, default=1e6, help="no task starts after this")
    arguments = parser.parse_args(argv)
    deadline = time.monotonic() + 60 * arguments.minutes
    budget = BUDGETS[arguments.budget]
    data, out = arguments.data.absolute(), arguments.out.absolute()
    write_indexes(read_clips(data), out / "indexes", every=budget.every)
    study = Study(Source(data, out / "indexes", budget), out)
    folds = tuple(int(fold) for fold in arguments.folds.split(","))
    plan = study.plan(folds, grid=arguments.grid)
    everything = index(out / "indexes", FOLDS, labelled=False)
    workers = max(1, (os.cpu_count() or 2) - 1)
    Resident(everything, data, size=budget.size, workers=workers).install()
    failed = work_through(study, plan, processes=arguments.processes, deadline=deadline)
    print(report(study), flush=True)
    return int(failed > 0)


def work_through(
    study: Study, plan: dict[Task, list[Task]], *, processes: int, deadline: float
) -> int:
    """Does every task once those that it needs are done; returns how many failed."""
    order = TopologicalSorter(plan)
    order.prepare()
    running: dict[Future[str], Task] = {}
    failed, start = 0, time.monotonic()
    # Forked before CUDA starts, so that all share the decoded frames.
    with ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("fork"), initializer=_quieten
    ) as pool:
        while order.is_active():
            for task in order.get_ready():
                if study.result(task).exists():
                    order.done(task)
                elif time.monotonic() < deadline:
                    running[pool.submit(_do, study, task, deadline)] = task
            if not running:
                if not order.is_active() or time.monotonic() >= deadline or failed:
                    break
                continue
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                task, problem = running.pop(future), future.result()
                failed += problem not in ("", "late")
                print(f"[{time.monotonic() - start:6.1f} s] {task.name} {problem}", flush=True)
                if not problem:
                    order.done(task)
    return failed


def _do(study: Study, task: Task, deadline: float) -> str:
    """Runs one task; returns what went wrong."""
    if time.monotonic() >= deadline:
        return "late"
    try:
        study.do(task)
    except Exception:
        return traceback.format_exc()
    return ""


def _quieten() -> None:
    """Tasks of several processes share the cores, and a screen that none of them writes to."""
    torch.set_num_threads(1)
    logging.disable(logging.INFO)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
