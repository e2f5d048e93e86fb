"""The predictor on real videos: the same frames as evaluation, and clear words for bad input."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cmaev.checkpoints import load_classifier
from cmaev.data.decode import open_video
from cmaev.data.errors import DataError
from cmaev.data.sampling import eval_clips
from cmaev.data.transforms import center_crop, resize_short_side
from cmaev_serving.export import ExportResult
from cmaev_serving.graph import FramesToLogits
from cmaev_serving.limits import VideoLimits
from cmaev_serving.metadata import ModelError
from cmaev_serving.predictor import Predictor, find_model, softmax
from cmaev_serving.runtime import Session
from cmaev_spec.data import ClipSpec
from cmaev_spec.rundir import RunDir


@pytest.fixture(scope="module")
def predictor(exported: ExportResult) -> Predictor:
    return Predictor(exported.onnx, threads=1)


def test_importing_it_leaves_torch_out() -> None:
    code = (
        "import sys, cmaev_serving.predictor, cmaev_serving.handler, cmaev_serving.agent;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_it_sends_no_telemetry(tmp_path: Path) -> None:
    code = "import cmaev_serving.predictor"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_the_answer_is_the_mean_over_what_evaluation_sees(
    finetuned: RunDir, predictor: Predictor, video: Path
) -> None:
    answer = predictor.predict(video, top_k=8)
    with open_video(video) as opened:
        clips = eval_clips(opened.num_frames, ClipSpec(frames=8, stride=2, size=32), num_clips=2)
        frames = np.stack(
            [center_crop(resize_short_side(opened.decode(clip).frames, 32), 32) for clip in clips]
        )
    logits = FramesToLogits(load_classifier(finetuned).model).eval().logits(frames)
    expected = torch.from_numpy(logits).softmax(dim=1).mean(dim=0)
    assert [item.index for item in answer.predictions] == expected.argsort(descending=True).tolist()
    for item in answer.predictions:
        assert item.label == f"label {item.index}"
        assert item.probability == pytest.approx(float(expected[item.index]), abs=1e-4)
    assert [list(view.frames) for view in answer.views] == clips.tolist()


def test_the_answer_tells_what_it_rests_on(predictor: Predictor, video: Path) -> None:
    answer = predictor.predict(video, top_k=3)
    assert len(answer.predictions) == 3
    assert answer.predictions[0].probability >= answer.predictions[1].probability
    assert answer.model == "shapes"
    assert answer.version == "step-30"
    assert [view.frames[0] for view in answer.views] == [0, 24]
    for view in answer.views:
        np.testing.assert_allclose(view.seconds, np.array(view.frames) / 25, atol=1e-6)
    assert answer.video["frames"] == 40
    assert (answer.video["width"], answer.video["height"]) == (64, 48)
    assert answer.video["codec"] == "h264"
    assert answer.milliseconds.keys() == {"decode", "inference"}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text", "cannot be read as a video"),
        ("truncated", "cannot be read as a video"),
        ("cut after its header", "cannot be read as a video|damaged"),
        ("audio only", "no video stream"),
        ("random", "cannot be read as a video"),
    ],
)
def test_what_is_no_video_is_refused_with_a_reason(
    predictor: Predictor, broken: dict[str, bytes], kind: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "secret-name.mp4"
    path.write_bytes(broken[kind])
    with pytest.raises(DataError, match=reason) as caught:
        predictor.predict(path)
    assert "secret-name" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_no_file_of_the_wild_is_a_surprise(predictor: Predictor) -> None:
    """Every odd or broken video gets an answer or a reason, and nothing else."""
    folder = os.environ.get("CMAEV_TEST_DATA")
    if not folder:
        pytest.skip("CMAEV_TEST_DATA is not set: no real videos to test with")
    refused, reasons = set(), []
    files = [path for path in Path(folder, "odd").glob("*/*") if path.is_file()]
    for path in files:
        try:
            answer = predictor.predict(path)
        except DataError as error:
            refused.add(path.name)
            reasons.append(str(error))
        else:
            assert sum(item.probability for item in answer.predictions) <= 1.0 + 1e-6
    assert files
    assert not [reason for reason in reasons if folder in reason]
    assert {"text_named.mp4", "zero_length.mp4", "audio_only_aac.mp4"} <= refused
    assert not refused & {path.name for path in Path(folder, "odd", "real").iterdir()}


def test_an_empty_file_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    with pytest.raises(DataError):
        predictor.predict(path)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (VideoLimits(max_seconds=1.0), "longer than 1 seconds"),
        (VideoLimits(max_pixels=64 * 64), None),
        (VideoLimits(max_frames=39), "more than 39 frames"),
        (VideoLimits(max_aspect_ratio=1.1), "too narrow"),
    ],
)
def test_limits_are_checked(
    exported: ExportResult, video: Path, limits: VideoLimits, reason: str | None
) -> None:
    predictor = Predictor(exported.onnx, threads=1, limits=limits)
    if reason is None:
        assert predictor.predict(video).predictions
        return
    with pytest.raises(DataError, match=reason):
        predictor.predict(video)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="is not there"):
        Session(path)
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not a model that ONNX Runtime reads"):
        Session(path)


def test_a_device_that_is_not_there_is_an_error_and_not_a_fallback(
    exported: ExportResult,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ModelError, match="device: cuda was asked for"):
        Session(exported.onnx, device="cuda")


def test_a_model_is_found_by_file_export_folder_or_run(
    exported: ExportResult, tmp_path: Path
) -> None:
    assert find_model(exported.onnx) == exported.onnx
    assert find_model(exported.onnx.parent) == exported.onnx
    (tmp_path / "export").symlink_to(exported.onnx.parent)
    assert find_model(tmp_path) == tmp_path / "export" / "model.onnx"
    with pytest.raises(ModelError, match="run `cmaev export` first"):
        find_model(tmp_path / "elsewhere")


def test_softmax_survives_large_logits() -> None:
    probabilities = softmax(np.array([[1000.0, 0.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(probabilities, [[1.0, 0.0], [0.5, 0.5]])
