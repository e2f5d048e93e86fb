"""What a large index costs: `python -m bench.index [--rows N] [--workers N]`.

Writes a csv of videos that exist (as empty files), opens it for the first and for the second time,
and sends it to worker processes that look at every row. Prints a Markdown table; memory is in MiB
per worker, over a worker that has imported the same and holds no index.
"""

import argparse
import gc
import multiprocessing
import os
import pickle
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from cmaev.data.index import open_index

VIDEOS_PER_FOLDER = 1000
CLASSES = 400


def write_set(folder: Path, rows: int) -> Path:
    """Makes the files and their index."""
    lines = ["path,label\n"]
    for number in range(rows):
        name = f"class_{number // VIDEOS_PER_FOLDER:05}/video_{number:09}_000010_000020.mp4"
        if number % VIDEOS_PER_FOLDER == 0:
            (folder / name).parent.mkdir()
        os.close(os.open(folder / name, os.O_CREAT))
        lines.append(f"{name},action number {number % CLASSES}\n")
    index = folder / "train.csv"
    index.write_text("".join(lines))
    return index


def timed_open(index: Path) -> tuple[float, int]:
    """Seconds that `open_index` takes, and the bytes that a worker is sent."""
    start = time.perf_counter()
    opened = open_index(index)
    seconds = time.perf_counter() - start
    return seconds, len(pickle.dumps(opened))


def look(connection: Connection) -> None:
    """A worker: takes the index, looks at every row, tells what memory that took."""
    process = psutil.Process()
    gc.collect()
    before = process.memory_full_info()
    index = pickle.loads(connection.recv_bytes())
    assert sum(len(index.paths[row]) + int(index.labels[row]) > 0 for row in range(len(index)))
    gc.collect()
    connection.send(None)
    connection.recv()  # All have looked, so all map the same pages.
    after = process.memory_full_info()
    connection.send((after.uss - before.uss, after.pss - before.pss))
    connection.recv()


def worker_memory(index: Path, workers: int) -> list[tuple[int, int]]:
    """(unshared, proportional) bytes of each worker."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cmaev.data.index"])
    opened = pickle.dumps(open_index(index))
    ends = []
    for _ in range(workers):
        here, there = context.Pipe()
        context.Process(target=look, args=(there,), daemon=True).start()
        here.send_bytes(opened)
        ends.append(here)
    for step in (True, False):
        for end in ends:
            end.recv() if step else end.send(None)
    measured = [end.recv() for end in ends]
    for end in ends:
        end.send(None)
    return measured


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_200_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CMAEV_CACHE_DIR"] = f"{folder}/cache"
        (Path(folder) / "set").mkdir()
        index = write_set(Path(folder) / "set", arguments.rows)
        first, _ = timed_open(index)
        second, sent = min(timed_open(index) for _ in range(3))
        memory = worker_memory(index, arguments.workers)
        size = index.stat().st_size
    unshared, proportional = (max(column) / 2**20 for column in zip(*memory, strict=True))
    print("| rows | csv, MiB | first open, s | later opens, s | sent to a worker, bytes |", end="")
    print(f" unshared | proportional, {arguments.workers} workers |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {arguments.rows:,} | {size / 2**20:.0f} | {first:.1f} | {second:.2f} | {sent} "
        f"| {unshared:.1f} | {proportional:.1f} |"
    )


if __name__ == "__main__":
    main()
