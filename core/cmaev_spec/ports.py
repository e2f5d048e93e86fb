"""Ports of this machine that are chosen now and listened on a while later, by another process."""

import errno
import random
import socket
from typing import Final

# Linux, macOS and Windows give those above to whoever connects or asks for any port.
_PORTS: Final = range(10_000, 32_768)
_TRIES: Final = 100


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now, and that the system gives to nobody by itself.

    Raises:
        OSError: if the host is no address of this machine, or it has no port to spare.
    """
    # Not the generator that a job or a test seeds: two of them would choose the same.
    for port in random.SystemRandom().sample(_PORTS, _TRIES):
        try:
            listen(host, port).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return port
    raise OSError(errno.EADDRINUSE, f"{_TRIES} ports of {host} in a row are taken")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, on IPv4 or IPv6 as the host is written."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
