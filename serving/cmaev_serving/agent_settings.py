"""Settings of the serving agent: environment variables with the prefix CMAEV_AGENT_."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cmaev_serving.limits import VideoLimits
from cmaev_serving.runtime import Device


class AgentSettings(BaseSettings):
    """How one agent runs."""

    model_config = SettingsConfigDict(env_prefix="CMAEV_AGENT_", frozen=True)

    state_dir: Path = Field(description="folder for models, spool and logs; one agent each")
    token: SecretStr | None = Field(None, description="bearer token that clients must send")
    token_file: Path | None = Field(None, description="file to read the token from instead")
    host: str = "127.0.0.1"
    port: int = Field(8090, ge=0, le=65535, description="0 takes a free one")
    port_file: Path | None = Field(None, description="file that the chosen port is written to")
    backend: Literal["torchserve", "inprocess"] = "torchserve"
    workers_per_model: int = Field(1, ge=1, le=64)
    device: Device = "cpu"
    threads: int = Field(1, ge=0, description="CPU threads of one inference; 0: one per core")
    timeout_seconds: float = Field(30.0, ge=1.0, description="longest time for one video")
    startup_seconds: float = Field(120.0, ge=1.0, description="longest time to load a model")
    drain_seconds: int = Field(30, ge=0, description="time for open requests at the end")
    upload_seconds: float = Field(120.0, gt=0.0, description="longest time to receive a body")
    max_upload_bytes: int = Field(200 << 20, ge=1)
    max_archive_bytes: int = Field(4 << 30, ge=1)
    max_queue: int = Field(16, ge=1, description="requests at once; more are sent away with 503")
    memory_bytes: int = Field(
        4 << 30, ge=1 << 28, description="address space a worker may add after loading its model"
    )
    limits: VideoLimits = VideoLimits()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.token is None) == (self.token_file is None):
            raise ValueError("set one of CMAEV_AGENT_TOKEN and CMAEV_AGENT_TOKEN_FILE")
        return self

    def read_token(self) -> str:
        """The bearer token.

        Raises:
            ValueError: if it cannot be read or is too short to be a secret.
        """
        if self.token is not None:
            token = self.token.get_secret_value()
        else:
            assert self.token_file is not None
            try:
                token = self.token_file.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ValueError(f"CMAEV_AGENT_TOKEN_FILE: {error.strerror}") from None
        if len(token) < 16:
            raise ValueError("CMAEV_AGENT_TOKEN: at least 16 characters, such as 32 random ones")
        return token
