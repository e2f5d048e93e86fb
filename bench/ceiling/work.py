"""Tasks that wait for each other, done by processes that share a device."""

import logging
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Protocol, TypeVar

import torch


class Named(Protocol):
    """A task; its name tells it from the others."""

    @property
    def name(self) -> str:
        """Of its files."""
        ...

    def __hash__(self) -> int: ...


T = TypeVar("T", bound=Named)


def work_through(
    plan: Mapping[T, Sequence[T]],
    do: Callable[[T], None],
    result: Callable[[T], Path],
    *,
    begin: Callable[[], None],
    processes: int,
    minutes: float,
) -> int:
    """Does every task that has no result yet, once those that it needs have one.

    Args:
        plan: the tasks that each task needs.
        do: does one, and leaves its result.
        result: the file that a task leaves.
        begin: what every process does first.
        processes: that work side by side.
        minutes: no task starts after so many.

    Returns:
        How many failed; what needs them was left out.
    """
    start = time.monotonic()
    deadline = start + 60 * minutes
    order = TopologicalSorter(plan)
    order.prepare()
    running: dict[Future[str], T] = {}
    failed = 0
    pool = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),  # CUDA does not survive a fork
        initializer=_begin,
        initargs=(begin,),
    )
    with pool:
        while order.is_active():
            ready = order.get_ready()
            for task in ready:
                if result(task).exists():
                    order.done(task)
                else:
                    running[pool.submit(_try, do, task, deadline)] = task
            if not running:
                if not ready:  # what is left needs tasks that failed
                    break
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, problem = running.pop(future), future.result()
                print(f"[{time.monotonic() - start:6.1f} s] {task.name} {problem}", flush=True)
                failed += bool(problem)
                if not problem:
                    order.done(task)
    return failed


def _try(do: Callable[[T], None], task: T, deadline: float) -> str:
    """Does one task; returns what went wrong."""
    if time.monotonic() >= deadline:
        return "came too late"
    try:
        do(task)
    except Exception:
        return traceback.format_exc()
    return ""


def _begin(begin: Callable[[], None]) -> None:
    """Processes share the cores, and a screen that none of them writes to."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)


def _end_with_parent() -> None:
    """A pool whose process was killed would work on its task for minutes, and then wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
