"""The processes of one distributed run that live on this node.

Static rendezvous: the variables that `torch.distributed` reads by `env://`, one process per rank,
no restarts in place (the control plane starts a new attempt instead). This stands where torchrun
or `elastic_launch` could: those put every rank in a session of its own, out of reach of a kill of
the run's process group, answer SIGTERM with at most 30 seconds for a checkpoint, and hide the exit
codes of the ranks.
"""

import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from cmaev_spec import lifeline
from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_OK, EXIT_STOPPED, BadInput
from cmaev_spec.ports import free_port
from cmaev_spec.resources import ResourceSpec

SETTLE_SECONDS = 1.0
"""After the first failure: time for the other ranks to fail by themselves and say why."""
STOP_SETTLE_SECONDS = 30.0
"""After the first stop: time for the others, which have agreed to it, or wait for it to join."""
PEER_GRACE_SECONDS = 15.0
"""After the ranks that are left were asked to end: time until they are killed."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What asks a run to stop."""
_TICK_SECONDS = 0.1


def run_ranks(
    command: Sequence[str], *, resources: ResourceSpec, keep_open: Sequence[int] = ()
) -> int:
    """Starts `command` once per local rank and waits for all of them.

    Args:
        command: what each rank runs; it finds its place in RANK, LOCAL_RANK, WORLD_SIZE, ….
        resources: nodes and processes per node.
        keep_open: descriptors that the ranks inherit.

    Returns:
        One exit code for all: see `combine`.

    Raises:
        BadInput: if the job spans nodes and this node's place is not in the environment.
    """
    place = rendezvous(resources, os.environ)
    ranks: list[subprocess.Popen[bytes]] = []
    with _forwarded(ranks), lifeline.held() as line:
        # A stop waits until every rank is there; ranks inherit the block and end it themselves.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            for local in range(resources.processes_per_node):
                variables = {**os.environ, **place, **_rank_variables(local, resources, place)}
                variables[lifeline.ENVIRONMENT] = str(line)
                rank = subprocess.Popen(list(command), env=variables, pass_fds=(line, *keep_open))
                ranks.append(rank)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return combine(_wait(ranks))


def rendezvous(resources: ResourceSpec, environment: Mapping[str, str]) -> dict[str, str]:
    """Where the ranks meet: a free port of this machine, or what the cluster's manifest says.

    Raises:
        BadInput: naming the variable that is missing or wrong.
    """
    if resources.nodes == 1:
        port = free_port()  # rank 0 listens on it once it has imported PyTorch
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0"}
    node = node_rank(resources, environment)
    return {
        "MASTER_ADDR": _required("CMAEV_MASTER_ADDR", environment),
        "MASTER_PORT": _required("CMAEV_MASTER_PORT", environment),
        "GROUP_RANK": str(node),
    }


def node_rank(resources: ResourceSpec, environment: Mapping[str, str]) -> int:
    """Which of the job's nodes this is, from 0.

    Raises:
        BadInput: if the job spans nodes and CMAEV_NODE_RANK does not name one of them.
    """
    if resources.nodes == 1:
        return 0
    text = _required("CMAEV_NODE_RANK", environment)
    if not text.isdecimal() or int(text) >= resources.nodes:
        raise BadInput(f"CMAEV_NODE_RANK: must be 0 to {resources.nodes - 1}, not {text!r}")
    return int(text)


def _required(name: str, environment: Mapping[str, str]) -> str:
    value = environment.get(name)
    if not value:
        raise BadInput(f"{name}: must be set on every node of a job with resources.nodes > 1")
    return value


def combine(codes: Sequence[int | None]) -> int:
    """One exit code for all ranks: the one that explains the others.

    A rank that was killed makes its peers fail by their lost connection, so a signal (128 + n)
    goes first, then bad input, then any other failure, then a stop. None: ended by this launcher.
    """
    told = [code for code in codes if code is not None]
    killed = [128 - code for code in told if code < 0]
    failures = [code for code in told if code not in (EXIT_OK, EXIT_STOPPED) and code > 0]
    if killed:
        return killed[0]
    if EXIT_BAD_INPUT in failures:
        return EXIT_BAD_INPUT
    if failures:
        return failures[0]
    return EXIT_STOPPED if EXIT_STOPPED in told else EXIT_OK


def _rank_variables(
    local: int, resources: ResourceSpec, place: Mapping[str, str]
) -> dict[str, str]:
    rank = int(place["GROUP_RANK"]) * resources.processes_per_node + local
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(resources.world_size),
        "LOCAL_WORLD_SIZE": str(resources.processes_per_node),
    }


@contextmanager
def _forwarded(ranks: Sequence["subprocess.Popen[bytes]"]) -> Iterator[None]:
    """Passes SIGTERM and SIGINT on, so that the ranks agree on a last checkpoint."""

    def forward(number: int, _frame: object) -> None:
        for rank in ranks:
            rank.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(ranks: Sequence["subprocess.Popen[bytes]"]) -> list[int | None]:
    """Waits for all ranks; when one fails or stops, so do the rest. None: ended here."""
    deadline = math.inf
    ended_here: dict[int, int] = {}
    while None in (codes := [rank.poll() for rank in ranks]):
        now = time.monotonic()
        deadline = min(deadline, now + _patience(codes))
        if now > deadline + PEER_GRACE_SECONDS:
            ended_here |= _signal_rest(ranks, signal.SIGKILL)
        elif now > deadline and not ended_here:
            ended_here = _signal_rest(ranks, signal.SIGTERM)
        time.sleep(_TICK_SECONDS)
    ends = {rank.pid: rank.returncode for rank in ranks}
    return [None if ended_here.get(pid) == -code else code for pid, code in ends.items()]


def _patience(codes: Sequence[int | None]) -> float:
    """Seconds that the ranks that are left have to end by themselves."""
    if set(codes) - {None, EXIT_OK, EXIT_STOPPED}:
        return SETTLE_SECONDS
    return STOP_SETTLE_SECONDS if EXIT_STOPPED in codes else math.inf


def _signal_rest(ranks: Sequence["subprocess.Popen[bytes]"], number: int) -> dict[int, int]:
    """Sends a signal to the ranks that are left; returns it by process id."""
    rest = [rank for rank in ranks if rank.poll() is None]
    for rank in rest:
        rank.send_signal(number)
    return {rank.pid: number for rank in rest}
