"""One run as a process group of its own that ends with this worker."""

import os
import signal
import sys
import time
from pathlib import Path

from cmaev_spec import lifeline
from cmaev_spec.rundir import RunDir

_SECRETS = frozenset(
    {"CMAEV_WORKER_KEY", "CMAEV_WORKER_KEY_FILE", "CMAEV_REDIS_URL", "CMAEV_DATABASE_URL"}
)
_LOG_TAIL_BYTES = 4096
_LOG_TAIL_LINES = 15


class RunProcess:
    """`python -m cmaev.launch` for one attempt; what it prints is appended to the run's log.

    Args:
        run: the claimed run directory.
        runs_dir: folder of all runs, where `job:<id>` references are looked up.
    """

    def __init__(self, run: RunDir, *, runs_dir: Path) -> None:
        self._log = run.log
        self._kill_at: float | None = None
        self.was_asked_to_stop = False
        self.was_killed = False
        self.started_at = time.time()
        with open(run.log, "ab") as log:
            self._log_start = log.tell()
            self._child = lifeline.spawn(
                [sys.executable, "-m", "cmaev.launch", "--run-dir", str(run.path)],
                env=run_environment(runs_dir),
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """Process id of the launcher, and of its group."""
        return self._child.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs; enforces the grace."""
        code = self._child.process.poll()
        if code is None and self._kill_at is not None and time.monotonic() > self._kill_at:
            self.was_killed = True
            self._child.signal_group(signal.SIGKILL)
            return self._child.process.wait()
        return code

    def ask_to_stop(self, *, grace: float) -> None:
        """Sends SIGTERM once, and SIGKILL to the whole group after the shortest grace asked for."""
        kill_at = time.monotonic() + grace
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        if not self.was_asked_to_stop:
            self.was_asked_to_stop = True
            self._child.process.terminate()

    def close(self) -> None:
        """Kills whatever is left of the group."""
        self._child.close()

    def log_tail(self) -> str:
        """The last lines that this attempt printed."""
        with open(self._log, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, end - _LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])


def run_environment(runs_dir: Path) -> dict[str, str]:
    """This worker's environment without its secrets, and with the folder of the runs."""
    inherited = {key: value for key, value in os.environ.items() if key not in _SECRETS}
    return {**inherited, "CMAEV_RUNS_DIR": str(runs_dir), "PYTHONUNBUFFERED": "1"}
