"""A worker of the in-process backend: `python -m cmaev_serving.worker --fd N --model FILE`.

It speaks lines of JSON over the socket that it inherits: a WorkerReply first, when the model is
loaded or cannot be, then two for every WorkerRequest: TAKEN before it touches the video, and the
answer. It is a process of its own, so that a decoder that crashes, hangs or eats memory costs this
worker and nothing else.
"""

import argparse
import io
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from cmaev_serving.metadata import ModelError
from cmaev_serving.requests import WorkerReply, answer
from cmaev_serving.worker_settings import WorkerSettings
from cmaev_spec import lifeline
from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_OK

TAKEN = WorkerReply(status=202, body="")
"""Tells that a request has left the queue: a death from now on may be of its video."""


def main(argv: Sequence[str]) -> int:
    """Serves one model until the socket closes."""
    parser = argparse.ArgumentParser(prog="python -m cmaev_serving.worker")
    parser.add_argument("--fd", required=True, type=int)
    parser.add_argument("--model", required=True, type=Path)
    arguments = parser.parse_args(argv)
    lifeline.watch()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = WorkerSettings()
    with socket.socket(fileno=arguments.fd) as connection, connection.makefile("rwb") as stream:
        try:
            predictor = settings.open(arguments.model)
        except ModelError as error:
            _send(stream, WorkerReply(status=422, body=str(error)))
            return EXIT_BAD_INPUT
        _send(stream, WorkerReply(status=200, body=""))
        for line in stream:
            _send(stream, TAKEN)
            _send(stream, answer(predictor, line, spool=settings.spool))
    return EXIT_OK


def _send(stream: io.BufferedRWPair, reply: WorkerReply) -> None:
    stream.write(reply.model_dump_json().encode() + b"\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
