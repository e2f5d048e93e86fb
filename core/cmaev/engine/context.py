"""What every part of a run works with."""

from dataclasses import dataclass

from cmaev.engine.distributed import World
from cmaev.engine.events import EventLog
from cmaev.engine.signals import StopRequest
from cmaev_spec.rundir import RunDir


@dataclass(frozen=True)
class Context:
    """The run directory and this process's place in the run."""

    run: RunDir
    world: World
    events: EventLog
    stop: StopRequest
