"""What the agent tells its workers, through their environment."""

import os
import resource
import sys
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from cmaev_serving.limits import VideoLimits
from cmaev_serving.predictor import Predictor
from cmaev_serving.runtime import Device

PREFIX = "CMAEV_SERVING_"


class WorkerSettings(BaseSettings):
    """Settings of one worker process."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    spool: Path = Field(description="the only folder that videos are read from")
    device: Device = "cpu"
    threads: int = Field(1, ge=0, description="CPU threads of one inference; 0: one per core")
    memory_bytes: int = Field(
        4 << 30, ge=1 << 28, description="address space a worker may add after loading its model"
    )
    limits: VideoLimits = VideoLimits()

    def to_environment(self) -> dict[str, str]:
        """The variables that a worker reads these settings back from."""
        return {
            f"{PREFIX}{name.upper()}": value.model_dump_json()
            if isinstance(value, VideoLimits)
            else str(value)
            for name, value in self
        } | {"ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": str(max(self.threads, 1))}

    def open(self, model: Path) -> Predictor:
        """Opens the model, then caps the memory that a hostile video can make a decoder take."""
        predictor = Predictor(model, device=self.device, threads=self.threads, limits=self.limits)
        if self.device == "cpu" and sys.platform == "linux":
            # CUDA reserves address space far beyond what it uses, so no cap there.
            _cap_address_space(self.memory_bytes)
        return predictor


def _cap_address_space(extra: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + extra if hard == resource.RLIM_INFINITY else min(used + extra, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
