"""What was measured: written line by line as it comes, and as tables at the end."""

import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch
from bench.timing import hardware

from cmaev_spec.files import write_atomic

Figure = float | int | str
PACKAGES = (
    "torch",
    "timm",
    "numpy",
    "triton",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
)
STATUSES = ("ok", "skipped", "failed")


@dataclass(frozen=True)
class Row:
    """One case of a part."""

    part: str
    case: str
    status: Literal["ok", "skipped", "failed"]
    seconds: float
    """What the case took of the run, warm-up and compiling included."""
    figures: dict[str, Figure] = field(default_factory=dict)
    reason: str = ""

    def __post_init__(self) -> None:
        assert self.status in STATUSES
        assert (self.status == "ok") == (self.reason == ""), "whatever is not ok has a reason"


def header(device: torch.device, argv: Sequence[str], *, quick: bool) -> dict[str, object]:
    """Under what the figures were taken."""
    about: dict[str, object] = {
        "hardware": hardware(device),
        "command": shlex.join(["python", "-m", "bench.gpu", *argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }
    if quick:
        about["size"] = "in small: the smallest models stand in for those named; no figures"
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        about["memory_gib"] = round(card.total_memory / 2**30, 1)
        about["multiprocessors"] = card.multi_processor_count
        about["cuda"] = torch.version.cuda
    return about


class Report:
    """`results.jsonl` and `results.md`: they hold each case as soon as it is done."""

    def __init__(self, folder: Path, about: Mapping[str, object]) -> None:
        """Begins a report.

        Args:
            folder: where; made if it is not there.
            about: under what the figures are taken.

        Raises:
            OSError: if nothing can be written there, or results of another run would be lost.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._about = folder, about
        self._lines = folder / "results.jsonl"
        self.rows: list[Row] = []
        if self._lines.exists() and '"status": "ok"' in self._lines.read_text(encoding="utf-8"):
            raise FileExistsError(f"{folder} holds the results of another run; choose another name")
        self._lines.write_text(json.dumps({"kind": "header", **about}) + "\n", encoding="utf-8")

    def add(self, row: Row) -> None:
        """Writes a case and prints it; a run that is killed later has it in both files."""
        self.rows.append(row)
        with open(self._lines, "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": "row", **asdict(row)}) + "\n")
        self.write_tables()
        text = row.reason or "  ".join(f"{k} {_text(v)}" for k, v in row.figures.items())
        print(f"[{row.seconds:5.1f} s] {row.part}: {row.case}: {text}", flush=True)

    def write_tables(self) -> str:
        """Writes all cases as Markdown and returns it."""
        lines = [f"- {name}: {value}" for name, value in self._about.items()]
        for part in dict.fromkeys(row.part for row in self.rows):
            rows = [row for row in self.rows if row.part == part]
            lines += ["", f"## {part}", "", *_table(rows)]
        text = "\n".join(lines) + "\n"
        write_atomic(self._folder / "results.md", text)
        return text


def _table(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    lines = [_line(["case", *names, "note"]), _line(["---"] * (len(names) + 2))]
    for row in rows:
        note = row.reason and f"{row.status}: {row.reason}"
        lines.append(_line([row.case, *(_text(row.figures.get(name, "")) for name in names), note]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _text(value: Figure) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def complain(message: str) -> None:
    """Says something beside the results."""
    print(message, file=sys.stderr, flush=True)
