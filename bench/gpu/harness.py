"""Running cases one by one: what fails is written down, and the next one starts on a clean card."""

import gc
import re
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from bench.gpu.results import Figure, Report, Row, complain

from cmaev.engine.compilation import Compile

Figures = Mapping[str, Figure]
Case = TypeVar("Case")


class CannotMeasureError(Exception):
    """Why a case cannot be measured here."""


@dataclass(frozen=True)
class Bench:
    """What every part works with."""

    device: torch.device
    quick: bool
    report: Report
    deadline: float
    """On the clock of `time.monotonic`; no case starts after it."""
    wanted: re.Pattern[str] = re.compile("")
    """Found in the names of the cases that are measured."""

    @property
    def cuda(self) -> bool:
        """Whether this is a GPU."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products in training: bf16, but fp32 on a CPU."""
        return torch.bfloat16 if self.cuda else torch.float32

    @property
    def backend(self) -> str:
        """Compiler; in small, its front end alone, which finds graph breaks."""
        return "eager" if self.quick else "inductor"

    def size(self, full: int, *, small: int) -> int:
        """A number, or the one that stands in for it in small."""
        return small if self.quick else full

    def cases(self, every: Mapping[str, Case], *, small: Collection[str]) -> dict[str, Case]:
        """All cases, or in small those that stand for them."""
        return {name: what for name, what in every.items() if not self.quick or name in small}

    def model(self, size: str, *, family: str = "vit") -> str:
        """A registered name; in small always that of the smallest."""
        if self.quick:
            return f"cmaev_{family}_nano_patch8_32"
        return f"cmaev_{family}_{size}_patch16_224"

    @property
    def how(self) -> Compile:
        """How a step is compiled where neither compiling nor its speed is what is compared."""
        return "none" if self.quick else "blocks"

    @property
    def fastest(self) -> Compile:
        """How a step is compiled where its speed counts."""
        return "none" if self.quick else "step"

    def need_cuda(self) -> None:
        """Skips what a CPU does not have."""
        if not self.cuda:
            raise CannotMeasureError("needs CUDA")

    def case(self, part: str, name: str, work: Callable[[], Figures]) -> Figures | None:
        """Measures and writes down; None if there is nothing to go on with."""
        if not self.wanted.search(name):
            return None
        start = time.monotonic()
        status, figures, reason = "ok", {}, ""
        if start > self.deadline:
            status, reason = "skipped", "no time left; choose it by --parts in a run of its own"
        else:
            try:
                self._clean()  # fails, too, on a card that an illegal access has left unusable
                figures = dict(work())
            except CannotMeasureError as error:
                status, reason = "skipped", str(error)
            except ImportError as error:
                status, reason = "skipped", _in_a_line(error)
            except torch.cuda.OutOfMemoryError:
                status, reason = "skipped", "out of memory"
            except Exception as error:
                complain(traceback.format_exc())
                status, reason = "failed", _in_a_line(error)
        self.report.add(Row(part, name, status, time.monotonic() - start, figures, reason))
        return figures if status == "ok" else None

    def note(self, part: str, name: str, figures: Figures) -> None:
        """Writes down what follows from other cases."""
        self.report.add(Row(part, name, "ok", 0.0, dict(figures)))

    def _clean(self) -> None:
        torch.compiler.reset()
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def _in_a_line(error: Exception) -> str:
    """What goes into a table: libraries have messages of many lines, the first of them empty."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
