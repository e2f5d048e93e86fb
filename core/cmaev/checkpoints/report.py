"""What came out of a file of weights, and what did not, and why."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """The account of one import, tensor by tensor."""

    source: str
    origin: str
    """Whose weights they are, e.g. `VideoMAE pretraining file`."""
    loaded: tuple[str, ...]
    """Names of the model that hold the file's values now."""
    skipped: Mapping[str, str]
    """Names in the file that were not used -> why."""
    initial: tuple[str, ...]
    """Names of the model that the file does not have; they keep their initial values."""
    copied: tuple[str, ...] = ()
    """Parts of the model that were copied from others after loading: the EMA target."""
    warnings: tuple[str, ...] = ()
    """What a person should know: licences, and settings that differ."""

    def reasons(self) -> dict[str, list[str]]:
        """The skipped names by reason."""
        grouped: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            grouped.setdefault(reason, []).append(name)
        return grouped

    def lines(self) -> list[str]:
        """The account for people, a line for each group; warnings go where warnings go."""
        lines = [f"{self.source}: {self.origin}", f"loaded {_count(self.loaded)}"]
        for reason, names in self.reasons().items():
            lines.append(f"skipped {_count(names)}: {reason} ({_sample(names)})")
        if self.initial:
            lines.append(f"initial values stay in {_count(self.initial)} ({_sample(self.initial)})")
        return lines + [f"copied {part}" for part in self.copied]

    def to_json(self) -> str:
        """The account for programs."""
        return json.dumps(asdict(self), indent=1)


def _count(names: tuple[str, ...] | list[str]) -> str:
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"


def _sample(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, …"
