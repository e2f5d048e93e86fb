"""Curves of a run in the tools that people keep them in, besides `metrics.jsonl`.

A tracker gets what is logged while the run goes on. A run that resumes repeats the steps after its
checkpoint exactly, so a tracker that keeps both has each value twice and no other.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

from cmaev_spec.exits import BadInput
from cmaev_spec.rundir import RunDir


class Tracker(Protocol):
    """Takes named values at steps."""

    def start(self, *, resumed_step: int) -> None:
        """The run begins, or goes on after `resumed_step`."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """What was measured since the last logged step."""
        ...

    def close(self) -> None:
        """Writes what is left; also after an error, and where nothing was started."""
        ...


class TensorBoard:
    """Event files in `tensorboard/` of the run: `tensorboard --logdir runs` compares runs."""

    def __init__(self, run: RunDir) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder: Path = run.tensorboard
        self._open = SummaryWriter
        self._writer: SummaryWriter | None = None

    def start(self, *, resumed_step: int) -> None:
        """See `Tracker`; what an earlier attempt wrote after `resumed_step` is hidden."""
        self._writer = self._open(str(self._folder), purge_step=resumed_step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        assert self._writer is not None, "start comes first"
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker`."""
        if self._writer is not None:
            self._writer.close()


TRACKERS: Final[dict[str, Callable[[RunDir], Tracker]]] = {"tensorboard": TensorBoard}
"""Name, which is also that of the package -> how it begins."""


def open_trackers(names: Sequence[str], run: RunDir, *, enabled: bool = True) -> list[Tracker]:
    """The trackers that a job asks for.

    Args:
        names: of `TRACKERS`.
        run: where they write.
        enabled: False on ranks that write nothing; they check the names all the same.

    Raises:
        BadInput: in every process, if the package of one is not installed.
    """
    for name in names:
        assert name in TRACKERS, f"no tracker {name!r}; there are: {', '.join(TRACKERS)}"
        if find_spec(name) is None:
            raise BadInput(
                f"run.trackers: {name} is not installed; pip install 'cmaev[{name}]', or leave it "
                "out"
            )
    return [TRACKERS[name](run) for name in names] if enabled else []
