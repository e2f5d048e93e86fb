"""Wrong settings of an agent end it at once, with the name of what is wrong."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "CMAEV_AGENT_STATE_DIR"),
        ({"CMAEV_AGENT_TOKEN": "short"}, "at least 16 characters"),
        ({"CMAEV_AGENT_TOKEN_FILE": "/nowhere"}, "set one of CMAEV_AGENT_TOKEN"),
        ({"CMAEV_AGENT_BACKEND": "magic"}, "CMAEV_AGENT_BACKEND"),
        ({"CMAEV_AGENT_PORT": "70000"}, "CMAEV_AGENT_PORT"),
    ],
)
def test_wrong_settings_end_with_64_and_name_themselves(
    environment: dict[str, str],
    reason: str,
    tmp_path: Path,
    run_agent: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    if environment:
        environment = {"CMAEV_AGENT_STATE_DIR": str(tmp_path / "state")} | environment
    result = run_agent(**environment)
    assert result.returncode == 64
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


def test_a_state_folder_too_deep_for_sockets_is_named(
    tmp_path: Path, run_agent: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    result = run_agent(CMAEV_AGENT_STATE_DIR=str(tmp_path / ("x" * 100)), CMAEV_AGENT_PORT="0")
    assert result.returncode == 64
    assert "characters too long for the sockets of TorchServe" in result.stderr


def test_a_taken_port_is_named(
    tmp_path: Path, run_agent: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = run_agent(
            CMAEV_AGENT_STATE_DIR=str(tmp_path / "state"), CMAEV_AGENT_PORT=str(port)
        )
    assert result.returncode == 64
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr
