"""Ports that can still be taken when their service gets to it."""

import errno
import socket
from pathlib import Path

import pytest

from cmaev_spec import ports
from cmaev_spec.ports import free_port

LINUX = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_a_port_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", free_port())) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(ports, "_PORTS", (taken, free))
        monkeypatch.setattr(ports, "_TRIES", 2)
        assert {free_port() for _ in range(20)} == {free}
        monkeypatch.setattr(ports, "_PORTS", (taken,))
        monkeypatch.setattr(ports, "_TRIES", 1)
        with pytest.raises(OSError, match="in a row are taken"):
            free_port()


@pytest.mark.skipif(not LINUX.is_file(), reason="tells the range of Linux")
def test_the_system_gives_it_to_nobody_else() -> None:
    first, last = map(int, LINUX.read_text().split())
    if (first, last) != (32768, 60999):
        pytest.skip("this machine's range is not that of Linux")
    assert not first <= free_port() <= last


def test_a_foreign_address_is_told() -> None:
    with pytest.raises(OSError, match="assign requested address") as caught:
        free_port("192.0.2.1")
    assert caught.value.errno == errno.EADDRNOTAVAIL
