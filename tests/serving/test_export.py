"""Exports of a real run: parity, metadata, the job's events, and what a refusal leaves behind."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import typer
from typer.testing import CliRunner

from cmaev.checkpoints import load_classifier
from cmaev_serving import cli, export
from cmaev_serving.export import ExportResult, export_run
from cmaev_serving.graph import FramesToLogits
from cmaev_serving.metadata import ModelError, ModelMetadata
from cmaev_serving.parity import BATCH_SIZES, ParityError, check_parity
from cmaev_serving.runtime import Session
from cmaev_spec.events import EVENT_ADAPTER
from cmaev_spec.exits import BadInput
from cmaev_spec.files import sha256_file
from cmaev_spec.job import parse_job
from cmaev_spec.rundir import RunDir
from cmaev_spec.wire import content_hash

LABELS = tuple(f"label {index}" for index in range(8))


def test_the_export_computes_what_the_run_computes(
    finetuned: RunDir, exported: ExportResult
) -> None:
    frames = np.random.default_rng(7).integers(0, 256, (5, 8, 32, 32, 3), dtype=np.uint8)
    expected = FramesToLogits(load_classifier(finetuned).model).eval().logits(frames)
    actual = Session(exported.onnx).logits(frames)
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=1e-4)
    assert np.ptp(expected) > 0.1


def test_the_hybrid_is_exported_with_any_batch_size(
    finetuned_hybrid: RunDir, tmp_path: Path
) -> None:
    result = export_run(finetuned_hybrid, tmp_path, name="shapes", archive=False)
    assert {case.batch_size for case in result.parity.cases} == set(BATCH_SIZES)
    frames = np.random.default_rng(7).integers(0, 256, (5, 8, 32, 32, 3), dtype=np.uint8)
    expected = FramesToLogits(load_classifier(finetuned_hybrid).model).eval().logits(frames)
    np.testing.assert_allclose(Session(result.onnx).logits(frames), expected, atol=1e-4, rtol=1e-4)
    assert np.ptp(expected) > 0.1


def test_normalisation_is_inside_the_graph(finetuned: RunDir, exported: ExportResult) -> None:
    """The file takes raw bytes: the same clip, normalised by hand, goes through the model."""
    frames = np.random.default_rng(8).integers(0, 256, (1, 8, 32, 32, 3), dtype=np.uint8)
    mean = torch.tensor((0.485, 0.456, 0.406))
    std = torch.tensor((0.229, 0.224, 0.225))
    video = ((torch.from_numpy(frames) / 255.0 - mean) / std).permute(0, 4, 1, 2, 3)
    with torch.inference_mode():
        expected = load_classifier(finetuned).model(video).numpy()
    np.testing.assert_allclose(Session(exported.onnx).logits(frames), expected, atol=1e-4)


def test_parity_is_reported_for_every_batch_size(exported: ExportResult) -> None:
    report = json.loads(exported.parity_file.read_text())
    assert {case["batch_size"] for case in report["cases"]} == set(BATCH_SIZES)
    assert {case["input"] for case in report["cases"]} == {"random", "black", "white"}
    assert report["max_difference"] == exported.metadata.provenance.parity_max_difference <= 1e-4


def test_the_file_describes_itself(finetuned: RunDir, exported: ExportResult) -> None:
    properties = Session(exported.onnx).properties()
    assert properties["cmaev.schema"] == "1"
    assert tuple(json.loads(properties["cmaev.labels"])) == LABELS
    assert json.loads(properties["cmaev.sampling"]) == {
        "frames": 8,
        "stride": 2,
        "size": 32,
        "num_clips": 2,
        "mode": "dense",
        "resize": "short-side-bilinear-center-crop",
    }
    provenance = json.loads(properties["cmaev.provenance"])
    assert provenance["job_hash"] == content_hash(finetuned.read_job())
    assert provenance["checkpoint_step"] == 30
    assert ModelMetadata.from_properties(properties) == exported.metadata


def test_weights_are_in_the_one_file(exported: ExportResult) -> None:
    model = onnx.load(exported.onnx, load_external_data=False)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert not any(item.external_data for item in model.graph.initializer)
    assert sorted(path.name for path in exported.onnx.parent.iterdir()) == [
        "model.onnx",
        "parity.json",
        "shapes.mar",
    ]


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({}, "no cmaev metadata"),
        ({"cmaev.schema": "9"}, "schema '9' is unknown"),
        ({"cmaev.schema": "1", "cmaev.labels": "[1"}, "damaged"),
        ({"cmaev.schema": "1", "cmaev.labels": '["a", "b"]'}, "damaged"),
    ],
)
def test_foreign_metadata_is_refused(properties: dict[str, str], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        ModelMetadata.from_properties(properties)


def _wrong(scale: float, *, shift: float = 0.0):  # type: ignore[no-untyped-def]
    def model(frames: np.ndarray) -> np.ndarray:
        logits = np.tile(np.arange(4, dtype=np.float32), (len(frames), 1))
        logits[:, 0] += shift
        return logits * np.float32(scale)

    return model


def test_parity_names_the_largest_difference() -> None:
    with pytest.raises(ParityError, match=r"differs from PyTorch by up to 0\.03 on random clips"):
        check_parity(_wrong(1.0), _wrong(1.01), (2, 4, 4, 3))
    with pytest.raises(ParityError, match="by up to 5"):
        check_parity(_wrong(1.0), _wrong(1.0, shift=5.0), (2, 4, 4, 3))
    assert check_parity(_wrong(1.0), _wrong(1.0 + 1e-6), (2, 4, 4, 3)).max_difference < 1e-4


def test_parity_refuses_not_a_number() -> None:
    with pytest.raises(ParityError):
        check_parity(_wrong(1.0), _wrong(float("nan")), (2, 4, 4, 3))


def test_a_failed_parity_leaves_nothing(
    finetuned: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shifted(FramesToLogits):
        def logits(self, frames: np.ndarray) -> np.ndarray:
            return super().logits(frames) + np.float32(0.01)

    monkeypatch.setattr(export, "FramesToLogits", Shifted)
    with pytest.raises(ParityError, match=r"0\.01"):
        export_run(finetuned, tmp_path / "out", name="shapes")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_that_is_no_finetune_is_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.claim(parse_job({"kind": "export", "source": "elsewhere"}))
    with pytest.raises(BadInput, match="a finetune run is needed"):
        export_run(run, tmp_path / "out", name="shapes")
    assert not (tmp_path / "out").exists()


def test_the_job_reports_what_it_does(finetuned: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.claim(parse_job({"kind": "export", "source": str(finetuned.path), "model_name": "shapes"}))
    command = [sys.executable, "-m", "cmaev_serving.export", "--run-dir", str(run.path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    events = [EVENT_ADAPTER.validate_json(line) for line in run.events.read_text().splitlines()]
    assert [event.type for event in events[:2]] == ["started", "progress"]
    assert events[-1].type == "outcome"
    assert events[-1].status == "succeeded"
    artifacts = {event.kind: event for event in events if event.type == "artifact"}
    for kind, name in {"onnx": "model.onnx", "archive": "shapes.mar"}.items():
        path = run.export / name
        assert artifacts[kind].path == f"export/{name}"
        assert artifacts[kind].sha256 == sha256_file(path)
        assert artifacts[kind].bytes == path.stat().st_size
    assert json.loads(run.summary.read_text())["classes"] == 8
    assert sorted(path.name for path in run.export.iterdir()) == [
        "model.onnx",
        "parity.json",
        "shapes.mar",
    ]


def test_a_job_without_its_source_is_bad_input(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.claim(parse_job({"kind": "export", "source": str(tmp_path / "missing")}))
    with pytest.raises(BadInput, match="is not a run directory"):
        export.main(["--run-dir", str(run.path)])
    assert not run.export.exists()


def application() -> typer.Typer:
    app = typer.Typer()
    cli.register(app)
    return app


def test_commands_export_and_predict(finetuned: RunDir, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner = CliRunner()
    result = runner.invoke(
        application(), ["export", str(finetuned.path), "--out", str(out), "--no-archive"]
    )
    assert result.exit_code == 0, result.output
    assert "parity" in result.output
    assert sorted(path.name for path in out.iterdir()) == ["model.onnx", "parity.json"]
    result = runner.invoke(
        application(), ["predict", str(out), str(video), "--top-k", "3", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.output)["predictions"]) == 3


def test_a_wrong_name_is_refused_before_any_work(finetuned: RunDir, tmp_path: Path) -> None:
    arguments = ["export", str(finetuned.path), "--out", str(tmp_path / "x"), "--name", "../up"]
    result = CliRunner().invoke(application(), arguments)
    assert isinstance(result.exception, BadInput)
    assert "model_name" in str(result.exception)
    assert not (tmp_path / "x").exists()
