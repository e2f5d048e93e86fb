"""The TorchServe handler: `handle(data, context)`, thin over the predictor.

TorchServe calls it once with no data to load the model, then with a list of requests. Its settings
come from the environment that the agent gives to TorchServe.
"""

from http import HTTPStatus
from pathlib import Path
from typing import Any

from cmaev_serving.archive import MODEL_MEMBER
from cmaev_serving.predictor import Predictor
from cmaev_serving.requests import answer
from cmaev_serving.worker_settings import WorkerSettings

_models: dict[str, tuple[Predictor, Path]] = {}


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[str] | None:
    """Loads the model, or answers a batch of requests one by one.

    Args:
        data: None at start; then one row per request with its decoded JSON in `body`.
        context: TorchServe's context.

    Returns:
        One JSON text per request, its status set in the context; None at start.
    """
    folder = str(context.system_properties["model_dir"])
    if data is None:
        settings = WorkerSettings()
        _models[folder] = settings.open(Path(folder) / MODEL_MEMBER), settings.spool
        return None
    predictor, spool = _models[folder]
    return [_answer(row, index, context, predictor, spool) for index, row in enumerate(data)]


def _answer(
    row: dict[str, Any], index: int, context: Any, predictor: Predictor, spool: Path
) -> str:
    reply = answer(predictor, row.get("body", row.get("data")), spool=spool)
    context.set_response_status(reply.status, HTTPStatus(reply.status).phrase, index)
    context.set_response_content_type(index, "application/json")
    return reply.body
