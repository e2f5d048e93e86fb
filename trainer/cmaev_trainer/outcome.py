"""From the end of a process to the word that the control plane wants."""

from typing import Literal

from cmaev_spec.exits import EXIT_OK, EXIT_STOPPED

Result = Literal["succeeded", "failed", "stopped", "crashed"]


def result_of(exit_code: int, *, asked_to_stop: bool) -> Result:
    """What an exit code means (cmaev_spec.exits).

    A run that died by a signal after it was asked to stop did what was wanted: it goes on from its
    last complete checkpoint. Without the request it crashed, and is worth another try.

    Args:
        exit_code: negative for a signal, as Popen tells it; 128 + n as a shell or launcher does.
        asked_to_stop: whether this worker sent the signal.
    """
    if exit_code == EXIT_OK:
        return "succeeded"
    if exit_code == EXIT_STOPPED:
        return "stopped"
    if exit_code < 0 or exit_code >= 128:
        return "stopped" if asked_to_stop else "crashed"
    return "failed"
