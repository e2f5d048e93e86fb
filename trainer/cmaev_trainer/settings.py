"""Settings of a worker, from environment variables with the prefix CMAEV_."""

import os
import socket
from pathlib import Path

from pydantic import AnyHttpUrl, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from cmaev_spec.exits import BadInput


class WorkerSettings(BaseSettings):
    """Where a worker finds its broker, its control plane and its runs."""

    model_config = SettingsConfigDict(env_prefix="CMAEV_", frozen=True, extra="ignore")

    redis_url: SecretStr = Field(description="broker, e.g. redis://:password@host:6379/0")
    api_url: AnyHttpUrl = Field(description="control plane, e.g. http://127.0.0.1:8080")
    worker_key: SecretStr | None = Field(None, description="bearer key of the worker role")
    worker_key_file: Path | None = Field(None, description="file that holds the key")
    runs_dir: Path = Field(description="folder that holds one run directory per job id")
    worker_name: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="unique among the workers",
    )
    stop_grace_seconds: float = Field(
        120.0, gt=0.0, description="time to save a checkpoint on pause or cancel, then SIGKILL"
    )
    shutdown_grace_seconds: float = Field(
        10.0, gt=0.0, description="the same when the worker itself is asked to end"
    )
    http_timeout_seconds: float = Field(5.0, gt=0.0)

    def read_key(self) -> str:
        """The worker's key, from the setting or its file.

        Raises:
            BadInput: if there is neither, or the file cannot be read or is empty.
        """
        if self.worker_key is not None:
            return self.worker_key.get_secret_value()
        if self.worker_key_file is None:
            raise BadInput("CMAEV_WORKER_KEY: set it, or CMAEV_WORKER_KEY_FILE to a file with it")
        try:
            key = self.worker_key_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise BadInput(
                f"CMAEV_WORKER_KEY_FILE: cannot read {self.worker_key_file}: {error.strerror}"
            ) from None
        if not key:
            raise BadInput(f"CMAEV_WORKER_KEY_FILE: {self.worker_key_file} is empty")
        return key


def load_settings() -> WorkerSettings:
    """Reads the environment.

    Raises:
        BadInput: naming each variable that is missing or wrong.
    """
    try:
        return WorkerSettings()
    except ValidationError as error:
        problems = [
            f"CMAEV_{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise BadInput("; ".join(problems)) from None
