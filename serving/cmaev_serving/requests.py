"""One request to a worker, the same for a TorchServe worker and for one of the agent's own.

The request is `{"path": …, "top_k": …}`: the video lies in the agent's spool folder, so that its
bytes never pass through Java. A worker opens nothing outside that folder.
"""

import logging
import os
from pathlib import Path

from pydantic import Field, ValidationError

from cmaev.data.errors import DataError
from cmaev_serving.predictor import Predictor
from cmaev_serving.problems import ServingError, bad_request, bad_video
from cmaev_spec.base import Spec
from cmaev_spec.serving_protocol import Problem

MAX_TOP_K = 1000
_logger = logging.getLogger(__name__)


class WorkerRequest(Spec):
    """What a worker is asked."""

    path: str
    top_k: int = Field(5, ge=1, le=MAX_TOP_K)


class WorkerReply(Spec):
    """What a worker answers: the JSON of a Classification (200) or of a Problem."""

    status: int
    body: str


def answer(predictor: Predictor, request: object, *, spool: Path) -> WorkerReply:
    """Answers one request; every error becomes a problem, so that its neighbours do not suffer."""
    try:
        order = _parse(request)
        result = predictor.predict(confined(order.path, spool), top_k=order.top_k)
    except DataError as error:
        return _problem(bad_video(str(error)).problem)
    except ServingError as error:
        return _problem(error.problem)
    except MemoryError:
        return _problem(bad_video("decoding the video needs more memory than is allowed").problem)
    except Exception:
        _logger.exception("the request failed")
        return _problem(
            Problem(title="Internal error", status=500, detail="the model could not be run")
        )
    return WorkerReply(status=200, body=result.model_dump_json())


def confined(path: str, spool: Path) -> Path:
    """The real path of a file in the spool folder.

    Raises:
        ServingError: if the path leads elsewhere, or to something that is not a plain file.
    """
    folder = os.path.realpath(spool)
    target = os.path.realpath(os.path.join(folder, path)) if "\0" not in path else ""
    if os.path.dirname(target) != folder or not os.path.isfile(target):
        raise bad_request(
            "the path is not a file of the spool folder",
            field="path",
            fix="send videos through the serving agent",
        )
    return Path(target)


def _parse(request: object) -> WorkerRequest:
    try:
        if isinstance(request, bytes | bytearray | str):
            return WorkerRequest.model_validate_json(request)
        return WorkerRequest.model_validate(request)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise bad_request(
            first["msg"], field=field, fix='send {"path": "<file in the spool>", "top_k": 5}'
        ) from None


def _problem(problem: Problem) -> WorkerReply:
    return WorkerReply(status=problem.status, body=problem.model_dump_json())
