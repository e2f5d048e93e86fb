"""What a check of an index found, as files and for people."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cmaev.data.index import Verified, VideoIndex
from cmaev.data.index_format import write_cells
from cmaev.data.index_write import index_text
from cmaev_spec.files import write_atomic

VERIFIED_INDEX: Final = "verified.csv"
QUARANTINE: Final = "quarantine.csv"
_SHOWN: Final = 5


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a check found.

    Attributes:
        videos: rows of the index.
        checked: videos that were decoded now; the others were checked before.
        fast: rows that the fast decoder may read.
        slow: rows for the reference alone, by why.
        quarantined: rows that cannot be used, by why.
        verified: the index of the rows that can be used.
        quarantine: the list of those that cannot.
    """

    videos: int
    checked: int
    fast: int
    slow: dict[str, int]
    quarantined: dict[str, int]
    verified: Path
    quarantine: Path

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), default=str, indent=2)

    def to_text(self) -> str:
        """Some lines for a terminal."""
        slow, bad = sum(self.slow.values()), sum(self.quarantined.values())
        lines = [
            f"{self.videos} videos, {self.checked} checked now: {self.fast} for the fast decoder, "
            f"{slow} for the reference alone, {bad} quarantined",
            *most_common("reference alone", self.slow),
            *most_common("quarantined", self.quarantined),
            f"train on {self.verified}",
        ]
        return "\n".join([*lines, f"reasons in {self.quarantine}"] if bad else lines)


def most_common(title: str, reasons: dict[str, int]) -> list[str]:
    """The reasons that come most often, a line each; `reasons` are in that order."""
    shown = [f"  {title}: {count} x {reason}" for reason, count in reasons.items()][:_SHOWN]
    more = len(reasons) - len(shown)
    return [*shown, f"  {title}: and {more} other reasons"] if more else shown


def write_report(
    index: VideoIndex,
    found: Callable[[int], tuple[Verified | None, str]],
    *,
    out: Path,
    checked: int,
) -> CheckReport:
    """Writes `verified.csv` and `quarantine.csv` into `out`.

    Args:
        index: the videos.
        found: for a row, what is verified, or None; and why it cannot be used, or why the
            reference alone may read it.
        out: an existing folder.
        checked: how many videos were decoded for this.
    """
    good: dict[int, Verified] = {}
    bad = [("path", "label", "place", "reason")]
    slow, quarantined = Counter[str](), Counter[str]()
    for row in range(len(index)):
        verified, why = found(row)
        if verified is None:
            bad.append((index.paths[row], index.label_name(row), index.where(row), why))
            quarantined[why] += 1
            continue
        good[row] = verified
        if not verified.decoder:
            slow[why] += 1
    write_atomic(out / VERIFIED_INDEX, index_text(index, good, found=good))
    write_atomic(out / QUARANTINE, write_cells(bad))
    return CheckReport(
        videos=len(index),
        checked=checked,
        fast=len(good) - slow.total(),
        slow=dict(slow.most_common()),
        quarantined=dict(quarantined.most_common()),
        verified=out / VERIFIED_INDEX,
        quarantine=out / QUARANTINE,
    )
