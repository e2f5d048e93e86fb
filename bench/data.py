"""What a sample costs: `python -m bench.data [--samples N] [--long-samples N]`.

CPU time of one core, in one run, of our two-view pretraining sample up to the batch, against a
plain one-view pipeline of the usual kind: decord's `get_batch`, Pillow frames, multi-scale crop,
floats, normalisation, as VideoMAE has it. On the ceiling clips of `CMAEV_TEST_DATA`, where that is
set, and on generated videos of 1280x720 pixels, 300 frames and a key frame every 250.

Prints Markdown tables: the ratios, where our time goes, and the views of a test.
"""

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cmaev.data.color import augment_color, draw_color
from cmaev.data.constants import IMAGENET_MEAN, IMAGENET_STD
from cmaev.data.crops import training_crop
from cmaev.data.decode import open_video
from cmaev.data.index import VideoIndex, open_index
from cmaev.data.reader import Clip, DiskReader
from cmaev.data.sampling import eval_clips, pretrain_pair
from cmaev.data.transforms import Box, multi_scale_box
from cmaev.data.views import EvaluateViews, PretrainViews
from cmaev_spec.data import ClipSpec, PretrainData

CLIP = ClipSpec(frames=16, stride=4, size=224)
FAST = "pyav-seek"
Work = Callable[[int], object]


@dataclass(frozen=True)
class Videos:
    """Videos to measure on, as an index without and with what a check found out."""

    name: str
    plain: VideoIndex
    checked: VideoIndex
    counts: Sequence[int]

    def row(self, sample: int) -> int:
        """The video of a sample."""
        return sample % len(self.plain)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=48, help="of the ceiling clips")
    parser.add_argument("--long-samples", type=int, default=6, help="of the generated videos")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        long = index_videos("1280x720, GOP 250", write_long(folder), folder)
        sets = [(long, arguments.long_samples)]
        clips = ceiling_clips(arguments.samples)
        if clips:
            sets.insert(0, (index_videos("ceiling clips", clips, folder), arguments.samples))
        results = [(videos, measure(videos, samples)) for videos, samples in sets]
    print(f"torch {torch.__version__}, PyAV {av.__version__}, decord {decord.__version__}\n")
    for videos, milliseconds in results:
        report(videos.name, milliseconds)


def measure(videos: Videos, samples: int) -> dict[str, float]:
    """Milliseconds of CPU time per sample, by name; all of them take turns."""
    work: dict[str, Work] = {"usual": lambda k: usual_sample(videos, k)}
    for name, index in (("", videos.plain), ("checked ", videos.checked)):
        work |= our_work(videos, index, prefix=name)
    work |= parts_of_work(videos)
    spent = dict.fromkeys(work, 0.0)
    for sample in range(-1, samples):
        for name, do in work.items():
            start = time.process_time()
            do(max(sample, 0))
            if sample >= 0:  # the first one warms up
                spent[name] += time.process_time() - start
    return {name: 1000 * seconds / samples for name, seconds in spent.items()}


def our_work(videos: Videos, index: VideoIndex, *, prefix: str) -> dict[str, Work]:
    """Our sample, its decoding, both with one view alone, and the views of a test."""
    reader = DiskReader(index)
    data = PretrainData(index=index.source, clip=CLIP)
    both = PretrainViews(index, data, grid=(8, 14, 14), mask_ratio=0.9, seed=0)
    test = EvaluateViews(index, clip=CLIP, num_clips=5, num_crops=3)

    def decode(sample: int, *, views: int) -> Clip:
        return read(reader, videos.row(sample), sample, views=views)

    def one_view(sample: int) -> Tensor:
        clip = decode(sample, views=1)
        return batch(training_crop(clip.frames, size=CLIP.size)[clip.places])

    def two_views(sample: int) -> list[Tensor]:
        parts = both.sample(videos.row(sample), epoch=sample)
        return [batch(parts[name]) for name in ("online", "target", "mask")]

    def stride(n: int) -> NDArray[np.int64]:
        return np.arange(0, n, CLIP.stride)

    work: dict[str, Work] = {
        "decode 1": lambda k: decode(k, views=1),
        "decode 2": lambda k: decode(k, views=2),
        "sample 1": one_view,
        "sample 2": two_views,
        "test, usual read": lambda k: reader.read(videos.row(k), stride),
        "test, middle view": lambda k: reader.read(
            videos.row(k), lambda n: eval_clips(n, CLIP, num_clips=1)[0]
        ),
        "test, decode 5x3": lambda k: reader.read(
            videos.row(k), lambda n: eval_clips(n, CLIP, num_clips=5).reshape(-1)
        ),
        "test, sample 5x3": lambda k: test.sample(videos.row(k)),
    }
    return {prefix + name: do for name, do in work.items()}


def parts_of_work(videos: Videos) -> dict[str, Work]:
    """Steps of our sample on their own."""
    held: dict[int, Clip] = {}
    reader = DiskReader(videos.plain)

    def clip(sample: int) -> Clip:
        return held[sample]

    def hold(sample: int) -> None:
        held.clear()
        held[sample] = read(reader, videos.row(sample), sample, views=2)

    def resize(sample: int) -> NDArray[np.uint8]:
        return training_crop(clip(sample).frames, size=CLIP.size)

    small = np.zeros((2 * CLIP.frames, CLIP.size, CLIP.size, 3), np.uint8)

    def copy(sample: int) -> list[Tensor]:
        places = clip(sample).places
        return [batch(small[half]) for half in (places[: CLIP.frames], places[CLIP.frames :])]

    def colour(sample: int) -> Tensor:
        draw = torch.from_numpy(draw_color(np.random.default_rng(sample)).pack()[None])
        return augment_color(torch.from_numpy(small[None, : CLIP.frames]), draw)

    return {
        "demux": lambda k: demux(path_of(videos, k)),
        "bare decoding": lambda k: decode_bare(
            path_of(videos, k), int(frames(k, videos.counts[videos.row(k)]).max()) + 1
        ),
        "hold": hold,
        "resize": resize,
        "copy": copy,
        "colour draw": lambda k: draw_color(np.random.default_rng(k)).pack(),
        "colour here": colour,
    }


def usual_sample(videos: Videos, sample: int) -> Tensor:
    """One normalised view (1, C, T, H, W), the usual way."""
    reader = decord.VideoReader(str(path_of(videos, sample)), num_threads=1)
    wanted = frames(sample, len(reader))[: CLIP.frames]
    images = [Image.fromarray(frame) for frame in reader.get_batch(wanted.tolist()).asnumpy()]
    width, height = images[0].size
    left, top, w, h = crop_of(width, height, sample)
    cut = [image.crop((left, top, left + w, top + h)) for image in images]
    size = CLIP.size, CLIP.size
    resized = [image.resize(size, Image.Resampling.BILINEAR) for image in cut]
    stacked = np.concatenate([np.asarray(image) for image in resized], axis=2)  # (H, W, T*C)
    video = torch.from_numpy(stacked).permute(2, 0, 1).contiguous().float().div(255)
    for change, values in ((video.sub_, IMAGENET_MEAN), (video.div_, IMAGENET_STD)):
        change(torch.tensor(values).repeat(CLIP.frames)[:, None, None])  # (T*C, H, W)
    return torch.stack([video.view(CLIP.frames, 3, *size).transpose(0, 1)])


def frames(sample: int, count: int) -> NDArray[np.int64]:
    """Frames of both views of a sample, (2T,)."""
    rng = np.random.default_rng([0, sample])
    return np.concatenate(pretrain_pair(count, CLIP, shift=2 * CLIP.stride, rng=rng))


def read(reader: DiskReader, row: int, sample: int, *, views: int) -> Clip:
    """Decodes the frames of one or both views of a sample, inside of its crop."""
    return reader.read(
        row,
        lambda n: frames(sample, n)[: views * CLIP.frames],
        lambda width, height: crop_of(width, height, sample),
    )


def crop_of(width: int, height: int, sample: int) -> Box:
    """The box of a sample."""
    rng = np.random.default_rng([1, sample])
    return multi_scale_box(width, height, scales=(1.0, 0.875, 0.75, 0.66), rng=rng)


def batch(array: NDArray[np.uint8]) -> Tensor:
    """A batch of one, as the loader collates it."""
    return torch.from_numpy(np.stack([array]))


def path_of(videos: Videos, sample: int) -> Path:
    """The file of a sample."""
    return Path(videos.plain.paths[videos.row(sample)])


def demux(path: Path) -> int:
    """Reads all packets."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.demux(container.streams.video[0]))


def decode_bare(path: Path, count: int) -> None:
    """Decodes `count` frames from the first on, and converts none of them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for number, _ in enumerate(container.decode(stream), start=1):
            if number == count:
                return


def index_videos(name: str, paths: Sequence[Path], folder: Path) -> Videos:
    """Indexes of the videos; the checked one trusts the fast decoder, on three frames compared."""
    plain, checked = ["path,label"], ["path,label,frames,decoder,bytes,mtime_ns"]
    counts = []
    for number, path in enumerate(paths):
        with open_video(path) as reference, open_video(path, backend=FAST) as fast:
            counts.append(reference.num_frames)
            probe = [0, counts[-1] // 2, counts[-1] - 1]
            same = np.array_equal(reference.decode(probe).frames, fast.decode(probe).frames)
        assert same, f"{FAST} decodes {path} to other frames than the reference"
        status = path.stat()
        plain.append(f"{path},{number % 2}")
        stamp = f"{status.st_size},{status.st_mtime_ns}"
        checked.append(f"{path},{number % 2},{counts[-1]},{FAST},{stamp}")
    opened = []
    for kind, lines in (("plain", plain), ("checked", checked)):
        file = folder / f"{name.split()[0]}-{kind}.csv"
        file.write_text("\n".join(lines) + "\n")
        opened.append(open_index(file))
    return Videos(name, opened[0], opened[1], counts)


def ceiling_clips(count: int) -> list[Path]:
    """Some of the real clips, spread over the set."""
    root = os.environ.get("CMAEV_TEST_DATA")
    if not root:
        return []
    with (Path(root) / "ceiling" / "manifest.csv").open() as file:
        paths = [Path(root) / "ceiling" / row["path"] for row in csv.DictReader(file)]
    return paths[:: max(len(paths) // count, 1)][:count]


def write_long(folder: Path, videos: int = 2) -> list[Path]:
    """Videos of 300 frames, 1280x720, a key frame every 250: a texture that moves, and noise."""
    paths = []
    for seed in range(videos):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (110, 200, 3), dtype=np.uint8)
        scene = coarse.repeat(16, axis=0).repeat(16, axis=1)
        paths.append(folder / f"long-{seed}.mp4")
        with av.open(str(paths[-1]), "w") as output:
            options = {"preset": "veryfast", "g": "250", "keyint_min": "250", "sc_threshold": "0"}
            stream = output.add_stream("libx264", rate=30, options=options)
            stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
            stream.time_base = Fraction(1, 30)
            for number in range(300):
                top, left = 200 + 180 * np.sin(number / 30), 600 + 500 * np.cos(number / 41)
                top, left = int(top), int(left)
                view = scene[top : top + 720, left : left + 1280].astype(np.int16)
                noise = rng.integers(-6, 7, (720, 1280, 1), dtype=np.int16)
                array = np.clip(view + noise, 0, 255).astype(np.uint8)
                frame = av.VideoFrame.from_ndarray(array, format="rgb24")
                frame.pts = number
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
    return paths


def report(name: str, ms: dict[str, float]) -> None:
    """Prints the tables of one set of videos."""
    print(f"### {name}\n")
    print("| ratio | reference decoder | checked file | aim |\n|---|---|---|---|")
    aim = "0.50" if name.startswith("ceiling") else "0.75"
    ratios = (
        ("our two views / usual one view", "sample 2", "usual", aim),
        ("decoding, both views / one", "decode 2", "decode 1", "1.25"),
        ("whole sample, both views / one", "sample 2", "sample 1", "1.50"),
        ("our two views / bare sequential decoding", "sample 2", "bare decoding", ""),
        (
            "test 5x3, decoding / usual read of a view",
            "test, decode 5x3",
            "test, usual read",
            "1.30",
        ),
        ("test 5x3, decoding / the middle view", "test, decode 5x3", "test, middle view", ""),
    )
    for label, above, below, wanted in ratios:
        shared = below in ("usual", "bare decoding")
        values = [
            ms[prefix + above] / ms[below if shared else prefix + below]
            for prefix in ("", "checked ")
        ]
        print(f"| {label} | {values[0]:.2f} | {values[1]:.2f} | {wanted} |")
    print("\n| milliseconds of CPU time | reference decoder | checked file |\n|---|---|---|")
    print(f"| usual, one view | {ms['usual']:.1f} | |")
    for label in ("decode 1", "decode 2", "sample 1", "sample 2", "test, sample 5x3"):
        print(f"| {label} | {ms[label]:.1f} | {ms['checked ' + label]:.1f} |")
    print("\n| where it goes | ms |\n|---|---|")
    bare = ms["bare decoding"] - ms["demux"]
    rows = {
        "demux": ms["demux"],
        "decode, in sequence": bare,
        "convert to RGB and the rest of reading": ms["decode 2"] - ms["bare decoding"],
        "crop and resize": ms["resize"],
        "draw colour": ms["colour draw"],
        "copy into the batch": ms["copy"],
        "change colour, which the device does, on this core": ms["colour here"],
    }
    for label, value in rows.items():
        print(f"| {label} | {value:.1f} |")
    print()


if __name__ == "__main__":
    main()
