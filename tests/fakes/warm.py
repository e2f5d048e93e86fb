"""Starts runs as `python -m cmaev.launch` does, without waiting for PyTorch each time.

`python warm.py MODULE` imports a module, then reads lines of JSON, {"run": folder, "variables":
{...}}, one at a time: it forks a process that leads its own session and launches the run, tells its
id in a line, and its exit code, as `subprocess` tells it, in another. Of a job on several ranks
only the launcher is forked; the ranks start from nothing.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from cmaev import launch


class Warm:
    """The tests' end of it."""

    def __init__(self, module):
        self._server = subprocess.Popen(
            [sys.executable, __file__, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # numpy's library of matrix products would start threads, which do not survive a fork.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        self._running = None

    def start(self, run, **variables):
        """Launches a run; returns the id of the process."""
        self._server.stdin.write(json.dumps({"run": str(run.path), "variables": variables}) + "\n")
        self._server.stdin.flush()
        self._running = int(self._server.stdout.readline())
        return self._running

    def wait(self):
        """The exit code of the process that was started."""
        code = int(self._server.stdout.readline())
        self._running = None
        return code

    def close(self):
        if self._running is not None:
            os.killpg(self._running, signal.SIGKILL)
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


@contextmanager
def warm(module="cmaev.train"):
    server = Warm(module)
    try:
        yield server
    finally:
        server.close()


def launched(request):
    """In the child: as the command would run it, with its output in the run's log."""
    os.setsid()
    os.environ.update(request["variables"])
    with open(Path(request["run"]) / "log.txt", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    return launch.main(["--run-dir", request["run"]])


def serve():
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            return launched(json.loads(line))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    importlib.import_module(sys.argv[1])
    sys.exit(serve())
