"""The TorchServe handler without TorchServe: batches, errors one by one, confinement."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmaev_serving import handler, worker_settings
from cmaev_serving.export import ExportResult
from cmaev_serving.limits import VideoLimits
from cmaev_serving.problems import ServingError
from cmaev_serving.requests import confined
from cmaev_serving.worker_settings import WorkerSettings


class Context:
    """The part of TorchServe's context that a handler uses."""

    def __init__(self, folder: Path) -> None:
        self.system_properties = {"model_dir": str(folder)}
        self.status: dict[int, int] = {}
        self.types: dict[int, str] = {}

    def set_response_status(self, code: int, phrase: str, index: int) -> None:
        self.status[index] = code

    def set_response_content_type(self, index: int, value: str) -> None:
        self.types[index] = value


@pytest.fixture
def spool(video: Path, broken: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    shutil.copy(video, folder / "good")
    (folder / "text").write_bytes(broken["text"])
    (folder / "inner").mkdir()
    (tmp_path / "outside").write_bytes(video.read_bytes())
    (folder / "link").symlink_to(tmp_path / "outside")
    return folder


@pytest.fixture
def context(
    exported: ExportResult, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Context]:
    # The cap would hold for the rest of this process.
    monkeypatch.setattr(worker_settings, "_cap_address_space", lambda extra: None)
    for name, value in WorkerSettings(spool=spool).to_environment().items():
        monkeypatch.setenv(name, value)
    context = Context(exported.onnx.parent)
    assert handler.handle(None, context) is None
    yield context
    handler._models.clear()


def body(**values: Any) -> dict[str, Any]:
    return {"body": values}


def test_a_bad_request_does_not_harm_its_neighbours(context: Context) -> None:
    rows = [
        body(path="good", top_k=2),
        body(path="text"),
        body(path="missing"),
        body(path="good", top_k=0),
        {"body": bytearray(b'{"path": "good", "top_k": 1}')},
        {"body": b"\xff not json"},
        {},
    ]
    replies = handler.handle(rows, context)
    assert replies is not None
    answers = [json.loads(reply) for reply in replies]
    assert [context.status[index] for index in range(7)] == [200, 422, 400, 400, 200, 400, 400]
    assert set(context.types.values()) == {"application/json"}
    assert len(answers[0]["predictions"]) == 2
    assert "cannot be read as a video" in answers[1]["detail"]
    assert (answers[2]["field"], answers[3]["field"]) == ("path", "top_k")
    assert len(answers[4]["predictions"]) == 1
    assert all(answer["fix"] for answer in (answers[1], answers[2], answers[3], answers[5]))


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "link",
        "inner",
        "inner/../good/..",
        "",
        ".",
        "missing",
        "good\0",
        "/etc/passwd",
    ],
)
def test_only_files_of_the_spool_are_opened(spool: Path, path: str) -> None:
    with pytest.raises(ServingError, match="not a file of the spool folder"):
        confined(path, spool)


def test_files_of_the_spool_are_found(spool: Path) -> None:
    assert confined("good", spool) == (spool / "good").resolve()
    assert confined(str(spool / "good"), spool) == (spool / "good").resolve()


def test_an_unforeseen_error_is_a_500_without_details(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, _ = handler._models[context.system_properties["model_dir"]]
    monkeypatch.setattr(predictor, "predict", lambda *_, **__: 1 / 0)
    (reply,) = handler.handle([body(path="good")], context) or []
    assert context.status[0] == 500
    assert "division" not in reply


def test_settings_travel_through_the_environment(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = WorkerSettings(spool=spool, threads=3, limits=VideoLimits(max_seconds=7.5))
    for name in list(os.environ):
        if name.startswith("CMAEV_SERVING_"):
            monkeypatch.delenv(name)
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    assert WorkerSettings() == settings
