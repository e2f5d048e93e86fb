"""Makes a labelled set of small videos to try everything on, without downloading anything.

`OUT/videos/*.mp4` are H.264; `OUT/train.csv` and `OUT/val.csv` list them as `path,label` and are
written last, so that their presence means that the set is complete. What was made is decided by the
parameters in `OUT/synth.json` alone: a call that was cut off goes on where it stopped.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray

from cmaev.data.errors import DataError
from cmaev.data.output import local_output
from cmaev.data.synth_scene import FRAMES, RATE, SIZE, SYNTH_CLASSES, draw_scene, render
from cmaev_spec.files import write_atomic

__all__ = ["SYNTH_CLASSES", "SynthSet", "synthesise"]

PARAMETERS_FILE: Final = "synth.json"
# Keeps the draws of labels apart from those of scenes, default_rng([seed, number]).
_LABEL_STREAM: Final = 0xC1A55
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class SynthSet:
    """A complete set; `created` is False where it was there already."""

    train: Path
    val: Path
    videos: int
    created: bool


@dataclass(frozen=True, kw_only=True)
class _Parameters:
    classes: int
    per_class: int
    val_per_class: int
    seed: int
    frames: int = FRAMES
    size: int = SIZE
    rate: int = RATE
    version: int = 1


def synthesise(
    out: str | Path,
    *,
    classes: int = 8,
    per_class: int = 40,
    val_per_class: int = 25,
    seed: int = 0,
    progress: Progress | None = None,
) -> SynthSet:
    """Makes the videos and both indexes; does nothing where the same set is complete already.

    Args:
        out: folder to make; new, empty, or of an earlier call with the same parameters.
        classes: how many of SYNTH_CLASSES, in whole pairs of opposites.
        per_class: training videos of each class.
        val_per_class: held-out videos of each class.
        seed: decides everything that is random.
        progress: called with (videos done, videos in all).

    Raises:
        DataError: for parameters out of range, or a folder that holds something else.
    """
    _check(classes, per_class, val_per_class, seed)
    parameters = _Parameters(
        classes=classes, per_class=per_class, val_per_class=val_per_class, seed=seed
    )
    out = local_output(out)
    _claim(out, parameters)
    indexes = _plan(parameters)
    rows = list(chain.from_iterable(indexes.values()))
    files = {name: out / f"{name}.csv" for name in indexes}
    created = not all(file.is_file() for file in files.values())
    if created:
        for number, (path, label) in enumerate(rows):
            _write_video(out / path, label, [seed, number])
            if progress is not None:
                progress(number + 1, len(rows))
        for name, file in files.items():
            write_atomic(file, _index_text(indexes[name]))
    return SynthSet(train=files["train"], val=files["val"], videos=len(rows), created=created)


def _plan(parameters: _Parameters) -> dict[str, list[tuple[str, str]]]:
    """The rows (path, label) of each index, in an order that tells nothing."""
    splits = {"train": parameters.per_class, "val": parameters.val_per_class}
    plan: dict[str, list[tuple[str, str]]] = {}
    first = 0
    for number, (name, count) in enumerate(splits.items()):
        labels = [label for label in SYNTH_CLASSES[: parameters.classes] for _ in range(count)]
        rng = np.random.default_rng([parameters.seed, number, _LABEL_STREAM])
        order = rng.permutation(len(labels))
        plan[name] = [
            (f"videos/{first + row:06d}.mp4", labels[place]) for row, place in enumerate(order)
        ]
        first += len(labels)
    return plan


def _check(classes: int, per_class: int, val_per_class: int, seed: int) -> None:
    choices = range(2, len(SYNTH_CLASSES) + 1, 2)
    if classes not in choices:
        raise DataError(
            f"classes: {classes} is not one of {', '.join(map(str, choices))}; "
            "classes come in pairs of opposite motions"
        )
    for name, value in (("per_class", per_class), ("val_per_class", val_per_class)):
        if not 1 <= value <= 100_000:
            raise DataError(f"{name}: {value} is not in 1 to 100000")
    if not 0 <= seed < 2**32:
        raise DataError(f"seed: {seed} is not in 0 to 2^32 - 1")


def _claim(out: Path, parameters: _Parameters) -> None:
    """Marks the folder as ours, or checks that it is of an earlier call with these parameters."""
    text = json.dumps(asdict(parameters), sort_keys=True) + "\n"
    marker = out / PARAMETERS_FILE
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    if marker.is_file():
        found = marker.read_text(encoding="utf-8")
        if found != text:
            raise DataError(
                f"{out} holds a set made with other parameters, {found.strip()}; "
                "give a new folder, or remove this one"
            )
    elif any(out.iterdir()):
        raise DataError(f"{out} is not empty and not of an earlier call; give a new folder")
    else:
        write_atomic(marker, text)
    (out / "videos").mkdir(exist_ok=True)


def _index_text(rows: list[tuple[str, str]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("path", "label"))
    writer.writerows(rows)
    return buffer.getvalue()


def _write_video(path: Path, label: str, seed: list[int]) -> None:
    """Writes one video, unless it is there: its content follows from its seed and label."""
    if not path.is_file():
        write_atomic(path, encode(render(draw_scene(np.random.default_rng(seed)), label)))


def encode(frames: NDArray[np.uint8]) -> bytes:
    """Frames (T, H, W, 3) as H.264 in mp4; the same bytes for the same frames."""
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        # No B-frames: with them x264 does not give the same bytes twice.
        options = {"crf": "20", "preset": "veryfast", "g": "16", "bf": "0"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, RATE)
        stream.codec_context.thread_count = 1
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
