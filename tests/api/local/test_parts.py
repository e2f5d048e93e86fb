"""Ports, the state folder and the declarations of the services."""

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from cmaev_api.local import ready, services
from cmaev_api.local.ports import claim_port
from cmaev_api.local.state import StateDir
from cmaev_spec.exits import BadInput
from cmaev_spec.ports import free_port


@pytest.fixture
def state(tmp_path: Path):
    folder = StateDir(tmp_path / "state")
    yield folder
    folder.close()


def test_a_taken_port_is_named_with_the_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(BadInput, match=rf"port {port} .* already taken.*--port"):
            claim_port("127.0.0.1", port)
    assert claim_port("127.0.0.1", port) == port
    assert claim_port("127.0.0.1", 0) > 1023


def test_a_foreign_address_is_refused() -> None:
    with pytest.raises(BadInput, match="--host"):
        claim_port("192.0.2.1", 8080)


def test_one_stack_per_state_folder(state: StateDir) -> None:
    with pytest.raises(BadInput, match=r"it is just starting.*--state"):
        StateDir(state.path)
    state.write_stack({"pid": 42, "api": "http://127.0.0.1:8080"})
    with pytest.raises(BadInput, match=r"process 42, http://127\.0\.0\.1:8080"):
        StateDir(state.path)


def test_a_closed_folder_is_free_again(tmp_path: Path) -> None:
    first = StateDir(tmp_path / "state")
    first.write_stack({"pid": 1, "api": ""})
    first.close()
    assert not first.stack.exists()
    StateDir(tmp_path / "state").close()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(BadInput, match="--state"):
        StateDir(tmp_path / "state")


def test_secrets_are_made_once_and_are_private(state: StateDir) -> None:
    secret = state.make_secret(state.serving_token)
    assert len(secret) >= 32
    assert state.make_secret(state.serving_token) == secret
    assert stat.S_IMODE(state.serving_token.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700


def test_a_large_log_is_put_aside(state: StateDir) -> None:
    path = state.log_of("api")
    with open(path, "wb") as file:
        file.truncate(17 * 1024 * 1024)
    assert state.log_of("api") == path
    assert not path.exists()
    assert path.with_suffix(".log.1").exists()


def test_addresses_that_this_machine_can_reach() -> None:
    assert services.api_url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert services.api_url("::", 80) == "http://[::1]:80"
    assert services.api_url("::1", 80) == "http://[::1]:80"
    assert services.api_url("10.0.0.5", 80) == "http://10.0.0.5:80"


def test_the_embedded_broker_asks_for_its_password_and_keeps_its_queue(state: StateDir) -> None:
    port = free_port()
    service = services.valkey(state, port=port)
    assert stat.S_IMODE((state.redis / "valkey.conf").stat().st_mode) == 0o600
    for attempt in range(2):
        process = subprocess.Popen(
            service.command, env=services.environment_of(service), stdout=subprocess.DEVNULL
        )
        try:
            url = services.valkey_url(state, port=port)
            while ready.redis(url) is not None:
                assert process.poll() is None
            assert "authenticated" in str(ready.redis(f"redis://127.0.0.1:{port}/0"))
            from redis import Redis

            with Redis.from_url(url) as client:
                assert client.get("kept") == (b"yes" if attempt else None)
                client.set("kept", "yes")
        finally:
            process.terminate()
            process.wait(timeout=60)


def test_no_secret_stands_on_a_command_line(state: StateDir) -> None:
    password = state.make_secret(state.redis / "password")
    token = state.make_secret(state.serving_token)
    for service in (
        services.valkey(state, port=1),
        services.agent(state, port=2, backend="inprocess"),
        services.worker(state, number=1, url="http://x", redis_url=f"redis://:{password}@x"),
    ):
        line = " ".join(service.command)
        assert password not in line
        assert token not in line
    assert "CMAEV_WORKER_KEY" not in os.environ
