"""Generated videos: the class is in the motion and nowhere else, and a call can be cut off."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from cmaev.data import cli
from cmaev.data.decode import open_video
from cmaev.data.errors import DataError
from cmaev.data.index import open_index
from cmaev.data.synth import synthesise
from cmaev.data.synth_scene import (
    FRAMES,
    SIZE,
    SYNTH_CLASSES,
    draw_scene,
    render,
    trajectory,
)

OPPOSITES = list(zip(SYNTH_CLASSES[::2], SYNTH_CLASSES[1::2], strict=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "set"
    synthesise(out, per_class=3, val_per_class=2, seed=7)
    return out


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_indexes_list_every_class_evenly(made: Path) -> None:
    train, val = open_index(made / "train.csv"), open_index(made / "val.csv")
    assert train.label_names == val.label_names == tuple(sorted(SYNTH_CLASSES))
    assert set(Counter(train.labels.tolist()).values()) == {3}
    assert set(Counter(val.labels.tolist()).values()) == {2}
    assert not set(train.paths) & set(val.paths)
    assert len(list((made / "videos").iterdir())) == 40


def test_videos_are_h264_of_the_promised_shape(made: Path) -> None:
    with open_video(made / "videos" / "000000.mp4") as video:
        assert (video.info.codec, video.info.width, video.info.height) == ("h264", SIZE, SIZE)
        assert video.num_frames == FRAMES
        assert video.info.fps == 16


def test_files_hold_what_was_rendered(made: Path) -> None:
    with (made / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    for number in (0, 11):
        expected = render(draw_scene(np.random.default_rng([7, number])), rows[number]["label"])
        decoded = open_video(made / rows[number]["path"]).decode(range(FRAMES)).frames
        assert np.abs(expected.astype(int) - decoded).mean() < 6


def test_the_same_seed_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    synthesise(tmp_path / "again", per_class=3, val_per_class=2, seed=7)
    assert snapshot(tmp_path / "again") == snapshot(made)


def test_a_call_that_was_cut_off_goes_on(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"

    def stop(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise(out, per_class=3, val_per_class=2, seed=7, progress=stop)
    assert not (out / "train.csv").exists()
    assert synthesise(out, per_class=3, val_per_class=2, seed=7).created
    assert snapshot(out) == snapshot(made)


def test_a_complete_set_is_left_alone(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    again = synthesise(made, per_class=3, val_per_class=2, seed=7)
    assert not again.created
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_other_content_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="made with other parameters"):
        synthesise(made, per_class=3, val_per_class=2, seed=8)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty and not of an earlier call"):
        synthesise(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        synthesise(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 3}, "classes: 3 is not one of 2, 4, 6, 8"),
        ({"classes": 10}, "classes: 10"),
        ({"per_class": 0}, "per_class: 0"),
        ({"val_per_class": 0}, "val_per_class: 0"),
        ({"seed": -1}, "seed: -1"),
    ],
)
def test_bad_parameters_make_nothing(
    tmp_path: Path, arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        synthesise(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("forward", "backward"), OPPOSITES)
def test_opposites_are_each_other_reversed(forward: str, backward: str) -> None:
    """Played backwards, a scene is the scene of drift -d under the opposite class, exactly."""
    scene = draw_scene(np.random.default_rng(3))
    mirrored = replace(scene, drift=-scene.drift)
    difference = render(scene, forward)[::-1].astype(int) - render(mirrored, backward)
    assert np.abs(difference).max() <= 1
    assert np.abs(difference).mean() < 1e-3


def test_every_frame_is_distributed_alike_in_all_classes() -> None:
    """Column, row, angle and size are uniform on the torus in each frame, whatever the class."""
    rng = np.random.default_rng(0)
    scenes = [draw_scene(rng) for _ in range(400)]
    periods = np.array([SIZE, SIZE, 2 * np.pi, np.log(2.5)])
    for label in SYNTH_CLASSES:
        states = np.stack([trajectory(scene, label) for scene in scenes]) / periods  # (V, T, 4)
        assert states.min() >= 0
        assert states.max() <= 1
        # The mean of 400 uniform phases as unit vectors is within 0.15 of 0 (three deviations).
        centre = np.abs(np.exp(2j * np.pi * states[:, [0, 15, 31]]).mean(axis=0))
        assert centre.max() < 0.15, label


def _motion(frames: np.ndarray) -> tuple[float, float]:
    """Mean (columns, rows) per step that the bright object moves by, on the torus."""
    bright = frames.max(axis=-1).astype(float) ** 3
    phase = np.exp(2j * np.pi * np.arange(SIZE) / SIZE)
    columns, rows = bright.sum(axis=1) @ phase, bright.sum(axis=2) @ phase
    turn = SIZE / (2 * np.pi)
    return tuple(float(turn * np.angle(path[1:] / path[:-1]).mean()) for path in (columns, rows))


@pytest.mark.parametrize(
    ("label", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)]
)
def test_translations_go_where_their_name_says(label: str, axis: int, sign: int) -> None:
    moves = [_motion(render(draw_scene(np.random.default_rng(k)), label)) for k in range(5)]
    for move in moves:
        assert 0.4 < sign * move[axis] < 1.8
        assert abs(move[1 - axis]) < 0.3


def test_expanding_grows() -> None:
    frames = render(draw_scene(np.random.default_rng(2)), "expanding")
    area = (frames.max(axis=-1) > 110).sum(axis=(1, 2))
    growing = np.diff(area) > 0
    assert growing.mean() > 0.75


def test_commands(tmp_path: Path) -> None:
    app = typer.Typer()
    cli.register(app)
    out = str(tmp_path / "set")
    arguments = ["synth", out, "--classes", "2", "--per-class", "1", "--val-per-class", "1"]
    first, second = (CliRunner().invoke(app, arguments) for _ in range(2))
    assert first.exit_code == second.exit_code == 0, first.output
    assert "made 4 videos" in first.output
    assert "already there: 4 videos" in second.output
    (tmp_path / "tree" / "walk" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "walk" / "deep" / "a b.mp4").write_bytes(b"x")
    index = str(tmp_path / "tree.csv")
    listed = CliRunner().invoke(app, ["index", str(tmp_path / "tree"), "--out", index])
    assert "1 videos of 1 classes" in listed.output
    assert open_index(index).label_names == ("walk",)
    empty = CliRunner().invoke(app, ["index", str(tmp_path / "set"), "--out", index])
    assert empty.exit_code == 0, "videos/ counts as one class"
    nothing = CliRunner().invoke(app, ["index", str(tmp_path / "none"), "--out", index])
    assert isinstance(nothing.exception, DataError)
