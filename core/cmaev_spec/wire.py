"""Names and forms that the services agree on."""

import hashlib
import json
from typing import Any, Final

from pydantic import BaseModel

QUEUE: Final = "cmaev"
TASK_RUN_ATTEMPT: Final = "cmaev.run_attempt"

RUNNERS: Final[dict[str, str]] = {
    "pretrain": "cmaev.train",
    "finetune": "cmaev.train",
    "probe": "cmaev.train",
    "evaluate": "cmaev.train",
    "export": "cmaev_serving.export",
}
"""Job kind -> module that `python -m cmaev.launch` starts with `--run-dir`."""


def canonical_json(value: BaseModel | dict[str, Any]) -> str:
    """One text for one meaning: sorted keys, no spaces, no NaN."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(value: BaseModel | dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
