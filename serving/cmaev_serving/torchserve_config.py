"""Everything that TorchServe is started with: ports, properties, command, environment."""

import importlib.util
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import Field

from cmaev_serving.java import find_java
from cmaev_spec.base import Spec

# Names that a Python process needs to find itself; secrets of the agent are not among them.
_PASSED_ON: Final = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "VIRTUAL_ENV"),
    *("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
)
_SOCKET_PATH_LIMIT: Final = 107
_MAX_REQUEST_BYTES: Final = 64 * 1024
_MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024

LOG4J: Final = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="WARN">
  <Appenders>
    <RollingFile name="file" fileName="{folder}/torchserve.log"
                 filePattern="{folder}/torchserve.%i.log">
      <PatternLayout pattern="%d{{ISO8601}} %-5p %c{{1}} %m%n"/>
      <Policies><SizeBasedTriggeringPolicy size="10 MB"/></Policies>
      <DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Root level="info"><AppenderRef ref="file"/></Root>
    <Logger name="ACCESS_LOG" level="warn"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
  </Loggers>
</Configuration>
"""


class Ports(Spec):
    """The loopback ports of one start."""

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int


class TorchServeOptions(Spec):
    """What the agent decides about TorchServe."""

    folder: Path = Field(description="for its working directory, logs and temporary files")
    store: Path = Field(description="folder of the archives")
    workers_per_model: int
    timeout_seconds: float
    startup_seconds: float
    queue_size: int
    java_heap_mib: int = 512
    token_minutes: int = Field(60, description="life of a token; renewed in half that time")

    @property
    def work(self) -> Path:
        """Working directory of Java; it writes key_file.json there."""
        return self.folder / "run"

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.folder / "logs"

    @property
    def temporary(self) -> Path:
        """Folder of sockets and unpacked archives."""
        return self.folder / "tmp"

    @property
    def keys(self) -> Path:
        """The file that TorchServe writes its tokens to."""
        return self.work / "key_file.json"


def free_ports() -> Ports:
    """Ports that are free now; if one is taken before Java binds it, the start is repeated."""
    names = list(Ports.model_fields)
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in names]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return Ports(**{n: s.getsockname()[1] for n, s in zip(names, sockets, strict=True)})
    finally:
        for item in sockets:
            item.close()


def check_path(options: TorchServeOptions) -> None:
    """Checks that TorchServe can put its sockets into its folder.

    Raises:
        ValueError: if the path is too long for the address of a socket.
    """
    longest = len(os.fsencode(options.temporary / ".ts.sock.65535"))
    if longest > _SOCKET_PATH_LIMIT:
        raise ValueError(
            f"CMAEV_AGENT_STATE_DIR: {longest - _SOCKET_PATH_LIMIT} characters too long for the "
            "sockets of TorchServe; choose a folder with a shorter path"
        )


def prepare_folders(options: TorchServeOptions) -> None:
    """Makes the folders, and takes away what an earlier start left there."""
    for folder in (options.work, options.logs, options.temporary):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    options.keys.unlink(missing_ok=True)
    for leftover in options.temporary.glob(".ts.sock.*"):
        leftover.unlink()
    (options.folder / "log4j2.xml").write_text(LOG4J.format(folder=options.logs))


def properties(options: TorchServeOptions, ports: Ports) -> str:
    """The text of config.properties."""
    values: dict[str, object] = {
        "inference_address": f"http://127.0.0.1:{ports.inference}",
        "management_address": f"http://127.0.0.1:{ports.management}",
        "metrics_address": f"http://127.0.0.1:{ports.metrics}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
        "grpc_inference_port": ports.grpc_inference,
        "grpc_management_port": ports.grpc_management,
        "model_store": options.store,
        "load_models": "none",
        "default_workers_per_model": options.workers_per_model,
        "default_response_timeout": round(max(options.timeout_seconds, 1)),
        "default_startup_timeout": round(max(options.startup_seconds, 1)),
        "number_of_netty_threads": 2,
        "netty_client_threads": 2,
        "job_queue_size": options.queue_size,
        "max_request_size": _MAX_REQUEST_BYTES,
        "max_response_size": _MAX_RESPONSE_BYTES,
        "metrics_mode": "prometheus",
        "disable_system_metrics": "true",
        "disable_token_authorization": "false",
        "enable_model_api": "true",
        "token_expiration_min": options.token_minutes,
        "allowed_urls": f"file://{options.store}/.*",
        "use_env_allowed_urls": "false",
        "enable_envvars_config": "false",
        "install_py_dep_per_model": "false",
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())


def command(options: TorchServeOptions, config: Path) -> list[str]:
    """Java itself, without the Python wrapper, which leaves Java behind when it is stopped."""
    spec = importlib.util.find_spec("ts")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("torchserve is not installed; install cmaev with the extra `serve`")
    package = Path(next(iter(spec.submodule_search_locations)))
    return [
        str(find_java()),
        f"-Dmodel_server_home={package.parent}",
        f"-Djava.io.tmpdir={options.temporary}",
        f"-Dlog4j.configurationFile=file://{options.folder / 'log4j2.xml'}",
        f"-Xmx{options.java_heap_mib}m",
        "-XX:+ExitOnOutOfMemoryError",
        *("-cp", str(package / "frontend" / "*"), "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable, "-f", str(config), "-s", str(options.store), "-ncs"),
    ]


def environment(options: TorchServeOptions, worker: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of Java and its workers; the agent's own settings stay out of it."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
        **worker,
        "LOG_LOCATION": str(options.logs),
        "METRICS_LOCATION": str(options.logs),
        "TMPDIR": str(options.temporary),
        "TEMP": str(options.temporary),
    }
