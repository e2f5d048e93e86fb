"""What the stages of the demo leave for its report."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from cmaev_api.jobs.schemas import JobRead
from cmaev_spec.serving_protocol import Classification


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A held-out video, what it shows, what evaluation said and what the endpoint answered."""

    path: Path
    label: str
    evaluated: str
    answer: Classification


@dataclass
class Results:
    """What the stages leave for the report."""

    out: Path
    stages: list[tuple[str, float, str]] = field(default_factory=list)
    pretrained: JobRead | None = None
    scratch: JobRead | None = None
    answers: list[Answer] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)

    def add(self, stage: str, start: float, result: str) -> None:
        """Closes a stage that began at `start` (monotonic seconds)."""
        self.stages.append((stage, time.monotonic() - start, result))
