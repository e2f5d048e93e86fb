"""Children that notice the death of their parent, even by kill -9.

The parent keeps the write end of a pipe; the child inherits the read end and watches it. When the
parent dies for whatever reason the kernel closes the pipe, and the child ends its process group.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ENVIRONMENT = "CMAEV_LIFELINE_FD"


class Child:
    """A process in its own group that does not outlive this process."""

    def __init__(self, process: "subprocess.Popen[bytes]", write_end: int) -> None:
        self.process = process
        self._write_end: int | None = write_end

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self.process.pid

    def signal_group(self, number: int) -> None:
        """Sends a signal to the whole group, if it is still there."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Kills what is left of the group, reaps the child and closes the pipe; idempotent."""
        self.signal_group(signal.SIGKILL)
        self.process.wait()
        if self._write_end is not None:
            os.close(self._write_end)
            self._write_end = None


def spawn(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Starts `command` as the leader of a new session, holding a lifeline to this process.

    The command must call `watch()` early, or be wrapped by `python -m cmaev_spec.lifeline`.
    """
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            list(command),
            env={**(os.environ if env is None else env), ENVIRONMENT: str(read_end)},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(read_end, *pass_fds),
            start_new_session=True,
        )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return Child(process, write_end)


@contextmanager
def held() -> Iterator[int]:
    """A lifeline for several children: the descriptor that they inherit as ENVIRONMENT says."""
    read_end, write_end = os.pipe()
    try:
        yield read_end
    finally:
        os.close(read_end)
        os.close(write_end)


def watch(on_lost: Callable[[], None] | None = None) -> bool:
    """Watches the inherited lifeline in a thread; returns whether there is one.

    When the parent is gone `on_lost` is called first, then the whole process group is killed.
    """
    text = os.environ.pop(ENVIRONMENT, None)
    if text is None:
        return False
    descriptor = int(text)
    os.set_inheritable(descriptor, False)

    def wait_for_end() -> None:
        while os.read(descriptor, 1):
            pass
        if on_lost is not None:
            on_lost()
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait_for_end, name="lifeline", daemon=True).start()
    return True


def main(arguments: Sequence[str]) -> int:
    """`python -m cmaev_spec.lifeline COMMAND…`: gives a lifeline to a program that has none."""
    watch()
    child = subprocess.Popen(list(arguments))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: child.send_signal(received))
    code = child.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
