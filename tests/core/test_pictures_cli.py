"""`cmaev pictures` on runs of each kind."""

import base64
import os
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import job
from typer.testing import CliRunner

from cmaev.cli import build
from cmaev_spec.exits import BadInput
from cmaev_spec.rundir import RunDir

HELP = Path(__file__).with_name("pictures_help.txt")

pytestmark = pytest.mark.usefixtures("own_signals")


def pictures(*arguments):
    return CliRunner().invoke(build(), ["pictures", *map(str, arguments)])


def test_the_help_is_what_users_were_promised():
    """CMAEV_UPDATE_SNAPSHOTS=1 accepts a change that is meant."""
    shown = CliRunner().invoke(build(), ["pictures", "--help"], terminal_width=100).output
    if os.environ.get("CMAEV_UPDATE_SNAPSHOTS"):
        HELP.write_text(shown)
    assert HELP.read_text() == shown


class Page(HTMLParser):
    """What a page shows: its text, and its pictures."""

    def __init__(self, path):
        super().__init__()
        self.text, self.pictures, self.links = "", [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "src":
                content = base64.b64decode(value.removeprefix("data:image/png;base64,"))
                self.pictures.append(Image.open(BytesIO(content)))
            if name == "href":
                self.links.append(value)

    def handle_data(self, data):
        self.text += data


def test_a_pretrained_run_shows_what_it_rebuilds_and_looks_at(videos, pretrained, tmp_path):
    chosen = sorted((videos / "videos").iterdir())[:2]
    options = [part for path in chosen for part in ("--videos", path)]
    result = pictures(pretrained.path, *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "loss.png",
        "pictures.html",
        *(f"video-{n}-{what}.png" for n in (1, 2) for what in ("attention", "reconstruction")),
    }
    page = Page(tmp_path / "out" / "pictures.html")
    assert len(page.pictures) == 5
    assert page.links == []
    assert str(chosen[0]) in page.text
    with Image.open(tmp_path / "out" / "video-1-reconstruction.png") as strip:
        frames = np.asarray(strip)[::3, ::3]
    assert frames.shape == (3 * 33 + 2, 8 * 33, 3), "rows of original, masked, rebuilt"
    assert (frames[33:65, :32] == 128).all(axis=-1).mean() == pytest.approx(0.75, abs=0.02)


def test_a_finetuned_run_shows_its_confusions_and_videos_of_its_own(videos, finetuned, tmp_path):
    result = pictures(finetuned.path, "--count", 2, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    page = Page(tmp_path / "pictures.html")
    assert len(page.pictures) == 4, "losses, confusions, two attentions"
    assert "macro_recall" in page.text
    assert {path.name for path in tmp_path.iterdir()} >= {"confusion.png", "loss.png"}
    held_out = (videos / "val.csv").read_text().splitlines()[1:]
    for line in (held_out[0], held_out[-1]):
        assert line.split(",")[0] in page.text


def test_a_name_is_text_and_not_markup(finetuned, videos, tmp_path):
    path = tmp_path / "<b>&.mp4"
    path.write_bytes(next(iter(sorted((videos / "videos").iterdir()))).read_bytes())
    result = pictures(finetuned.path, "--videos", path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "<b>" not in (tmp_path / "out" / "pictures.html").read_text()
    assert "<b>&.mp4" in Page(tmp_path / "out" / "pictures.html").text


def test_what_cannot_be_drawn_is_told(videos, pretrained, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    for arguments, message in (
        ([tmp_path / "nowhere"], "is not a run directory"),
        ([pretrained.path, "--out", tmp_path, "--videos", broken], "--videos: .*broken.mp4"),
        ([pretrained.path, "--out", tmp_path, "--videos", tmp_path / "none.mp4"], "none.mp4"),
    ):
        result = pictures(*arguments)
        assert isinstance(result.exception, BadInput)
        assert re.search(message, str(result.exception))
    empty = RunDir(tmp_path / "empty")
    empty.claim(job("pretrain", videos))
    result = pictures(empty.path)
    assert "nothing to draw yet" in str(result.exception)
    assert not empty.pictures.exists()
