"""What decoding costs, by backend and by step: `python -m bench.decode [--rounds N] [--clips N]`.

Decodes training samples (16 frames, 4 apart, and the target view up to 8 frames later) and tests of
five clips, from ceiling-camera clips (where CMAEV_TEST_DATA names them) and from videos of 1280x720
with 300 frames in groups of 250, which it makes. CPU time of one thread, the least of all rounds;
every figure of a table comes from one run. `of bare` is the distance to a loop over PyAV that
decodes up to the last frame that is wanted and converts nothing; `plain decord` is one `get_batch`
of one view, as the loaders of other projects have it.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from cmaev.data.decode import DecodeLimits, Region, is_available, open_video
from cmaev.data.decode.container import open_container, reopenable
from cmaev.data.sampling import eval_clips, pretrain_pair
from cmaev_spec.data import ClipSpec

CLIP = ClipSpec(frames=16, stride=4, size=224)
Sample = tuple[Path, int, NDArray[np.int64]]


def write_long_group(path: Path, *, seed: int) -> None:
    """1280x720, 300 frames, key frames every 250, three B-frames: a texture that moves."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:720, 0:2560]
    waves = [
        60 * np.sin(x / a + y / b) + 40 * np.sin(x / c) for a, b, c in rng.uniform(9, 90, (3, 3))
    ]
    texture = np.stack(waves, axis=-1) + rng.normal(128, 6, (720, 2560, 3))
    texture = texture.clip(0, 255).astype(np.uint8)
    options = {"crf": "23", "preset": "veryfast", "bf": "3", "g": "250", "sc_threshold": "0"}
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.time_base = Fraction(1, 25)
        for number in range(300):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(texture[:, 3 * number : 3 * number + 1280]), format="rgb24"
            )
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def samples(paths: Sequence[Path]) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Both views, the online view alone, and five test clips of each video."""
    rng = np.random.default_rng(0)
    both, one, five = [], [], []
    for path in paths:
        with open_video(path) as video:
            count = video.num_frames
        views = pretrain_pair(count, CLIP, shift=8, rng=rng)
        both.append((path, count, np.unique(views)))
        one.append((path, count, np.unique(views[0])))
        five.append((path, count, np.unique(eval_clips(count, CLIP, num_clips=5))))
    return both, one, five


def bare(sample: Sample) -> None:
    """Decodes up to the last frame, and does nothing with it."""
    path, _, indices = sample
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, _ in enumerate(container.decode(stream)):
            if number == indices[-1]:
                return


def plain_decord(sample: Sample) -> None:
    """What VideoMAE's loader does: one reader, one `get_batch`."""
    from decord import VideoReader, cpu

    path, _, indices = sample
    frames = VideoReader(str(path), num_threads=1, ctx=cpu(0)).get_batch(indices.tolist())
    assert len(frames.asnumpy()) == len(indices)


def bare_whole(sample: Sample) -> None:
    """Decodes all of it, and does nothing with it."""
    bare((sample[0], sample[1], np.asarray([sample[1] - 1])))


def decode(backend: str, *, known: bool, part: float = 1.0) -> Callable[[Sample], None]:
    """Opens and decodes; `part` of both sides around the centre of the frame."""

    def run(sample: Sample) -> None:
        path, count, indices = sample
        with open_video(path, backend=backend, num_frames=count if known else None) as video:
            width, height = video.info.width, video.info.height
            w, h = max(int(part * width), 2), max(int(part * height), 2)
            region = Region((width - w) // 2, (height - h) // 2, w, h)
            assert len(video.decode(indices, region=region).frames) == len(indices)

    return run


def only_open(backend: str, *, known: bool) -> Callable[[Sample], None]:
    """Opens and counts."""

    def run(sample: Sample) -> None:
        path, count, _ = sample
        with open_video(path, backend=backend, num_frames=count if known else None) as video:
            assert video.num_frames == count

    return run


def demux(sample: Sample) -> None:
    """Opens, without decoding, and reads all packets."""
    container, stream = open_container(reopenable(sample[0]), DecodeLimits(), probe=False)
    with container:
        assert sum(1 for _ in container.demux(stream)) >= sample[1]


def seconds(task: Callable[[Sample], None], work: Sequence[Sample]) -> float:
    """CPU seconds per sample."""
    start = time.process_time()
    for sample in work:
        task(sample)
    return (time.process_time() - start) / len(work)


def measure(paths: Sequence[Path], rounds: int) -> dict[str, float]:
    """Milliseconds of each task, the least of all rounds, which take turns."""
    both, one, five = samples(paths)
    tasks = {"bare": (bare, both), "whole": (bare_whole, both), "demux": (demux, both)}
    if is_available("decord"):
        tasks["plain"] = (plain_decord, one)
    for backend, known in backends():
        name = label(backend, known)
        tasks |= {
            f"{name} open": (only_open(backend, known=known), both),
            f"{name} tiny": (decode(backend, known=known, part=0), both),
            f"{name} two": (decode(backend, known=known), both),
            f"{name} part": (decode(backend, known=known, part=0.75), both),
            f"{name} one": (decode(backend, known=known), one),
            f"{name} five": (decode(backend, known=known), five),
        }
    least = dict.fromkeys(tasks, float("inf"))
    for _ in range(rounds):
        for name, (task, work) in tasks.items():
            least[name] = min(least[name], 1000 * seconds(task, work))
    return least


def backends() -> list[tuple[str, bool]]:
    """What to compare: names, and whether the number of frames is known from a check."""
    pairs = [("pyav", False), ("pyav", True), ("pyav-seek", True), ("decord", True)]
    return [pair for pair in [*pairs, ("torchcodec", True)] if is_available(pair[0])]


def label(backend: str, known: bool) -> str:
    """A row's name."""
    return backend if known else f"{backend}, unchecked"


def print_table(kind: str, times: dict[str, float]) -> None:
    """Milliseconds by step, and ratios."""
    print(f"\n### {kind}\n")
    print(
        "| backend | open | decode | convert | two views | of bare | of plain decord, one view |",
        end="",
    )
    print(" two / one | five clips / bare, whole | central 3/4 / whole |")
    print("|---|" + "---:|" * 9)
    plain = times.get("plain", float("nan"))
    for backend, known in backends():
        name = label(backend, known)
        opened, tiny, two, part, one, five = (
            times[f"{name} {step}"] for step in ("open", "tiny", "two", "part", "one", "five")
        )
        steps = f"{opened:.2f} | {tiny - opened:.2f} | {two - tiny:.2f} | {two:.2f}"
        ratios = (two / times["bare"], two / plain, two / one, five / times["whole"], part / two)
        print(f"| {name} | {steps} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    print(f"\nbare {times['bare']:.2f} ms, to the end {times['whole']:.2f} ms;", end=" ")
    print(f"plain decord, one view {plain:.2f} ms;", end=" ")
    print(f"opening and reading all packets {times['demux']:.2f} ms")


def main() -> None:
    """Prints a table for each kind of clip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=40, help="ceiling clips")
    parser.add_argument("--videos", type=int, default=6, help="videos of 1280x720")
    arguments = parser.parse_args()
    print("CPU milliseconds per sample, one thread")
    data = os.environ.get("CMAEV_TEST_DATA")
    if data:
        clips = sorted((Path(data) / "ceiling").rglob("*.mp4"))
        chosen = clips[:: max(len(clips) // arguments.clips, 1)][: arguments.clips]
        print_table("Ceiling clips, 170x128", measure(chosen, arguments.rounds))
    else:
        print("\nCMAEV_TEST_DATA is not set: no ceiling clips")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.mp4" for number in range(arguments.videos)]
        for seed, path in enumerate(paths):
            write_long_group(path, seed=seed)
        print_table("1280x720, 300 frames, GOP 250", measure(paths, arguments.rounds))


if __name__ == "__main__":
    main()
