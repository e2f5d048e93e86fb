"""Charts are pictures of the numbers that they are given."""

import numpy as np
from PIL import Image

from cmaev.pictures.charts import confusion_chart, loss_curve


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_a_confusion_shows_where_it_lies(tmp_path):
    """Bright on the diagonal of a perfect answer, and elsewhere for another one."""
    labels = ["left $x$", "right_", "<up>"]
    right, wrong = tmp_path / "right.png", tmp_path / "deep" / "wrong.png"
    confusion_chart(np.diag([5, 3, 2]), right, labels=labels)
    confusion_chart(np.fliplr(np.diag([5, 3, 2])), wrong, labels=labels)
    first, second = pixels(right), pixels(wrong)
    assert first.shape == second.shape
    assert (first != second).any()


def test_a_class_without_videos_and_hundreds_of_classes_are_drawn(tmp_path):
    confusion_chart(np.zeros((2, 2), dtype=int), tmp_path / "none.png", labels=["a", "b"])
    many = [f"class {number}" for number in range(400)]
    confusion_chart(np.eye(400, dtype=int), tmp_path / "many.png", labels=many)
    assert pixels(tmp_path / "many.png").shape[0] < 2000


def test_losses_that_begin_or_end_early_are_drawn(tmp_path):
    rows = [{"step": 1, "loss": 2.0, "loss_a": 1.0}, {"step": 2, "loss": 1.0}]
    loss_curve(rows, tmp_path / "loss.png", title="a run")
    loss_curve([], tmp_path / "empty.png", title="a run")
    assert (pixels(tmp_path / "loss.png") != pixels(tmp_path / "empty.png")).any()
