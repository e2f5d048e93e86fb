"""Pictures as files that are whole or not there."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from cmaev_spec.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_image(picture: Image.Image, path: Path) -> None:
    """Writes pixels as a PNG; the folder is made where there is none."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    _write(path, buffer.getvalue())


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a drawing of matplotlib as a PNG; the folder is made where there is none."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    _write(path, buffer.getvalue())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
