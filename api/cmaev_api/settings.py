"""Settings of the control plane, read from the environment with the prefix `CMAEV_`."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cmaev_spec.exits import BadInput

MIB = 1024 * 1024


class Settings(BaseSettings):
    """Everything that a deployment may choose; the defaults suit one machine."""

    model_config = SettingsConfigDict(env_prefix="CMAEV_", frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 takes a free one")

    state_dir: Path = Field(
        Path("~/.local/share/cmaev"), description="folder of the database, the keys and the runs"
    )
    database_url: str | None = Field(
        None,
        repr=False,
        description="sqlite:/// or postgresql:// URL; unset: a SQLite file in the state folder",
    )
    runs_dir: Path | None = Field(
        None,
        description="folder with one run directory per job id; unset: `runs` in the state folder",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", repr=False, description="broker of the Celery workers"
    )

    admin_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="a fixed key with the scope `admin`; unset: made on first start",
    )
    worker_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="a fixed key with the scope `worker`; unset: made on first start",
    )

    serving_url: str | None = Field(
        None, description="address of the serving agent; unset: models cannot be deployed"
    )
    serving_token: SecretStr | None = Field(None, description="bearer token of the serving agent")
    serving_token_file: Path | None = Field(
        None, description="file that holds the agent's token; read at every request"
    )

    shared_files: bool = Field(
        True,
        description="workers see the same paths as the API, so a job's paths are checked first",
    )
    lease_seconds: float = Field(
        30.0, gt=0, description="how long an attempt stays leased without a heartbeat"
    )
    heartbeat_seconds: float = Field(5.0, gt=0, description="how often a worker should report")
    sweep_seconds: float = Field(
        5.0, gt=0, description="how often lost leases, stuck jobs and missing models are looked for"
    )
    redispatch_seconds: float = Field(
        30.0, gt=0, description="after how long a queued attempt is sent again; doubles each time"
    )
    max_attempts: int = Field(
        3, ge=1, description="crashes and lost leases after which a job has failed"
    )

    max_upload_bytes: int = Field(200 * MIB, ge=1, description="largest video that is accepted")
    max_body_bytes: int = Field(16 * MIB, ge=1024, description="largest body of any other request")
    max_inferences: int = Field(16, ge=1, description="videos in hand at a time; others get 503")
    inference_seconds: float = Field(
        60.0, gt=0, description="longest wait for an answer to a video"
    )
    deploy_seconds: float = Field(300.0, gt=0, description="longest wait for a model to be loaded")

    @field_validator("state_dir", "runs_dir", "serving_token_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str | None) -> str | None:
        if url is None or url.startswith("sqlite:///"):
            return url
        scheme, separator, rest = url.partition("://")
        if separator and scheme in {"postgres", "postgresql", "postgresql+psycopg"}:
            return f"postgresql+psycopg://{rest}"
        raise ValueError("must start with sqlite:/// or postgresql://")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heartbeat_seconds >= self.lease_seconds:
            raise ValueError("CMAEV_HEARTBEAT_SECONDS must be less than CMAEV_LEASE_SECONDS")
        if self.serving_token is not None and self.serving_token_file is not None:
            raise ValueError("set CMAEV_SERVING_TOKEN or CMAEV_SERVING_TOKEN_FILE, not both")
        return self

    @property
    def database(self) -> str:
        """URL of the database."""
        return self.database_url or f"sqlite:///{self.state_dir / 'cmaev.sqlite3'}"

    @property
    def runs(self) -> Path:
        """Folder that holds one run directory per job id."""
        return self.runs_dir or self.state_dir / "runs"

    def read_serving_token(self) -> str | None:
        """The agent's token; read from its file each time, so that it can be changed in place."""
        if self.serving_token_file is not None:
            return self.serving_token_file.read_text(encoding="utf-8").strip()
        return None if self.serving_token is None else self.serving_token.get_secret_value()


def load_settings() -> Settings:
    """Reads the environment.

    Raises:
        BadInput: naming the variable that is wrong and why.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "".join(f"CMAEV_{part}: ".upper() for part in first["loc"])
        raise BadInput(f"{name}{str(first['msg']).removeprefix('Value error, ')}") from None
