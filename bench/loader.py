"""What loader processes keep of memory: `python -m bench.loader [--samples N] [--workers N]`.

Generates videos, reads two-view samples of them, and compares the resident memory of each process
after the first quarter, when its buffers have their size, with that at the end. Prints a Markdown
table; a leak shows as a ratio over 1.
"""

import argparse
import tempfile
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from cmaev.data.index import VideoIndex, open_index
from cmaev.data.loader import EpochLoader
from cmaev.data.views import PretrainViews
from cmaev_spec.data import ClipSpec, LoadingSpec, PretrainData

FILES, FRAMES, WIDTH, HEIGHT = 8, 96, 320, 240
BATCH = 10


def make_index(folder: Path, *, rows: int) -> VideoIndex:
    """An index of `rows` rows that lists a few generated files again and again."""
    rng = np.random.default_rng(0)
    for number in range(FILES):
        texture = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8 + FRAMES, 3), dtype=np.uint8)
        with av.open(folder / f"{number}.mp4", "w") as output:
            stream = output.add_stream("libx264", rate=25, options={"crf": "23", "g": "48"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.time_base = Fraction(1, 25)
            for place in range(FRAMES):
                shown = texture[:, place : place + WIDTH // 8].repeat(8, 0).repeat(8, 1)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")
                frame.pts = place
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
    (folder / "index.txt").write_text("".join(f"{row % FILES}.mp4\n" for row in range(rows)))
    return open_index(folder / "index.txt")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, without what it shares with others."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(fields["RssAnon"].split()[0]) * 1024


def memory_over_epochs(
    index: VideoIndex, *, samples: int, workers: int, size: int
) -> dict[int, tuple[int, int]]:
    """By process id: resident bytes after a quarter of the samples, and after all of them."""
    data = PretrainData(index=index.source, clip=ClipSpec(frames=16, stride=4, size=size))
    views = PretrainViews(index, data, grid=(8, 4, 4), mask_ratio=0.75, seed=0)
    loader = EpochLoader(
        views,
        batch_size=BATCH,
        seed=0,
        shuffle=True,
        drop_last=True,
        loading=LoadingSpec(workers=workers),
    )
    early: dict[int, int] = {}
    done = epoch = 0
    with closing(loader):
        while done < samples:
            for _ in loader.epoch(epoch):
                done += BATCH
                if not early and done >= samples / 4:
                    early = {pid: resident_bytes(pid) for pid in loader.pids}
                if done >= samples:
                    break
            epoch += 1
        return {pid: (before, resident_bytes(pid)) for pid, before in early.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=112)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = make_index(Path(folder), rows=500)
        measured = memory_over_epochs(
            index, samples=arguments.samples, workers=arguments.workers, size=arguments.size
        )
    print(f"{arguments.samples} samples of {WIDTH}x{HEIGHT}, {arguments.workers} processes\n")
    print("| process | MiB after a quarter | MiB at the end | ratio |")
    print("|---|---|---|---|")
    for number, (before, after) in enumerate(measured.values()):
        mib = [size / 2**20 for size in (before, after)]
        print(f"| {number} | {mib[0]:.1f} | {mib[1]:.1f} | {after / before:.3f} |")


if __name__ == "__main__":
    main()
