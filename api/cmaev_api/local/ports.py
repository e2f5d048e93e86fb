"""Ports of this machine."""

import errno
import time

from cmaev_spec.exits import BadInput
from cmaev_spec.ports import free_port, listen

_PATIENCE_SECONDS = 2.0
"""A stack that was killed a moment ago may still be letting go of its port."""


def claim_port(host: str, port: int) -> int:
    """Checks that `port` can be listened on; 0 picks a free one.

    Raises:
        BadInput: if it is taken or not allowed, or the host is no address of this machine.
    """
    if port == 0:
        return free_port(host)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            listen(host, port).close()
            return port
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise BadInput(_explain(host, port, error)) from None
            time.sleep(0.1)


def _explain(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is already taken; choose another with --port, or --port 0"
    if error.errno == errno.EACCES:
        return f"port {port} needs root; choose one above 1023 with --port"
    return f"cannot listen on {host}: {error.strerror or error}; check --host"
