"""Charts: how the losses went, and which classes are taken for which.

Shapes: K classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cmaev.pictures.files import save_figure

_MOST_NAMES: Final = 60
_MOST_NUMBERS: Final = 20


def loss_curve(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Writes a PNG with every loss of `metrics.jsonl` over the steps."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("loss"))
    figure = _figure(width=7, height=4)
    axes = figure.subplots()
    for name in names:
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), label=name.replace("_", " "))
    axes.set(title=title, xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    if names:
        axes.legend()
    save_figure(figure, path)


def confusion_chart(counts: npt.NDArray[np.int64], path: Path, *, labels: Sequence[str]) -> None:
    """Writes a PNG of a confusion matrix; colours are shares of each true class.

    Args:
        counts: (K, K) videos, true classes in rows and predicted ones in columns.
        path: the PNG.
        labels: K names; they are drawn where there is room.
    """
    K = len(labels)
    side = min(14.0, 3.0 + 0.3 * K)
    figure = _figure(width=side + 1, height=side)
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (K, K)
    image = axes.imshow(share, cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true")
    if K <= _MOST_NAMES:
        # A dollar sign would start mathematics, which a name of a class is not.
        names = [label.replace("$", r"\$") for label in labels]
        axes.set_xticks(range(K), names, rotation=90)
        axes.set_yticks(range(K), names)
    if K <= _MOST_NUMBERS:
        for row, column in np.argwhere(counts):
            axes.text(
                column,
                row,
                str(counts[row, column]),
                ha="center",
                va="center",
                color="black" if share[row, column] > 0.5 else "white",
            )
    save_figure(figure, path)


def _figure(*, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
