"""A local stack for the length of a `with` block, as `cmaev up` starts it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmaev_api.client import Client
from cmaev_spec import lifeline
from cmaev_spec.exits import EXIT_BAD_INPUT, BadInput

START_SECONDS = 180.0
STOP_SECONDS = 45.0


class StackFailedError(RuntimeError):
    """The stack did not start; the message says why and where to read more."""


@contextmanager
def local_stack(state: Path, *, log: Path) -> Iterator[Client]:
    """Starts `cmaev up` on a free port and stops it afterwards; it cannot outlive this process.

    Raises:
        BadInput: if the state folder is in use, or cannot be used.
        StackFailedError: if a service does not start.
    """
    command = [sys.executable, "-m", "cmaev_spec.lifeline", sys.executable, "-m", "cmaev"]
    options = ["up", "--state", str(state), "--port", "0"]
    with open(log, "wb") as file:
        child = lifeline.spawn([*command, *options], stdout=file, stderr=subprocess.STDOUT)
    try:
        url = _wait_until_ready(child, state / "stack.json", log)
        with Client(url, (state / "api-key").read_text(encoding="utf-8").strip()) as client:
            yield client
    finally:
        child.signal_group(signal.SIGTERM)
        try:
            child.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            sys.stderr.write("the stack did not stop in time and was killed\n")
        child.close()


def _wait_until_ready(child: lifeline.Child, stack: Path, log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        code = child.process.poll()
        if code is not None:
            reason = _reason(log) or f"exit code {code}"
            if code == EXIT_BAD_INPUT:
                raise BadInput(reason)
            raise StackFailedError(f"the stack did not start: {reason}; see {log}")
        if stack.is_file():
            content = json.loads(stack.read_text(encoding="utf-8"))
            if content["ready"]:
                return str(content["api"])
        time.sleep(0.2)
    raise StackFailedError(f"the stack was not ready within {START_SECONDS:g} s; see {log}")


def _reason(log: Path) -> str:
    """The line of the log that tells what went wrong, else its last one; may be empty."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line for line in lines if line.startswith("error: ")] or lines[-1:]
    return told[-1].removeprefix("error: ").strip() if told else ""
