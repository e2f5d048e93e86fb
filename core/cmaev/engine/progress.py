"""What a person at the terminal sees: a bar there, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column


class ProgressDisplay:
    """Shows one stage of counted steps; `enabled=False` (ranks other than 0) shows nothing."""

    def __init__(self, stage: str, *, total: int, enabled: bool = True) -> None:
        self._stage = stage
        self._total = total
        self._enabled = enabled
        self._bar: Progress | None = None
        self._last_line = 0.0
        if enabled and sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=10),
                MofNCompleteColumn(),
                TimeElapsedColumn(table_column=Column(min_width=7)),
                TextColumn("eta"),
                TimeRemainingColumn(table_column=Column(min_width=7)),
                TextColumn("{task.fields[note]}"),
                console=Console(),
            )
            self._task = self._bar.add_task(stage, total=total, note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the terminal to another display for a while."""
        if self._bar is not None:
            self._bar.stop()
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.start()

    def update(self, step: int, *, note: str = "") -> None:
        """Moves to `step`; plain lines come at most once in five seconds, and at the end."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=note)
        elif self._enabled:
            now = time.monotonic()
            if now - self._last_line >= 5 or step == self._total:
                self._last_line = now
                sys.stdout.write(f"{self._stage} {step}/{self._total} {note}".rstrip() + "\n")
                sys.stdout.flush()
