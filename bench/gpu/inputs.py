"""From uint8 frames to the step: what crops, colours and copies add to it.

Shapes: B clips, T frames of a view, F frames of a video, H x W pixels, S x S of a view, C = 3.
"""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from bench.gpu.harness import Bench, Figures
from bench.gpu.measure import throughput, time_calls
from bench.gpu.training import Inputs, TrainStep, pretraining_step
from bench.steps import MASK_RATIO
from torch import Tensor, nn

from cmaev.data.color import draw_color
from cmaev.data.device import crop_resize
from cmaev.data.device_views import DeviceViews
from cmaev.engine.feed import DeviceFeed
from cmaev.engine.precision import autocast
from cmaev.masking import tube_mask
from cmaev.models import create_encoder
from cmaev.models.architectures import architecture

Batch = dict[str, Tensor]


class DeviceCrops(nn.Module):
    """Crops both views of whole frames, then does what `DeviceViews` does."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.views = DeviceViews()

    @torch.no_grad()
    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`frames` (B, 2T, H, W, C), online first, and `box` (B, 4) -> two (B, C, T, S, S)."""
        frames = crop_resize(batch["frames"], batch["box"], size=self.size, flip=batch["flip"])
        online, target = frames.chunk(2, dim=1)  # (B, T, S, S, C) each
        out: tuple[Tensor, Tensor] = self.views(
            {"online": online, "target": target, "color": batch["color"]}
        )
        return out


class Draws:
    """What a batch draws on the host, anew for every step, in memory that copies can overlap."""

    def __init__(self, bench: Bench, name: str, *, batch: int) -> None:
        with torch.device("meta"):
            self._grid = create_encoder(name).grid
        self._rng, self._batch, self._pin = np.random.default_rng(0), batch, bench.cuda

    def __call__(self, *, height: int, width: int) -> Batch:
        """Masks, flips, colours and boxes inside height x width."""
        B, rng = self._batch, self._rng
        sides = rng.integers(min(height, width) // 2, min(height, width) + 1, B)
        left, top = (rng.integers(0, side - sides + 1) for side in (width, height))
        arrays = {
            "mask": np.stack([tube_mask(self._grid, MASK_RATIO, rng) for _ in range(B)]),
            "flip": rng.random(B) < 0.5,
            "color": np.stack([draw_color(rng).pack() for _ in range(B)]),
            "box": np.stack([left, top, sides, sides], axis=1),
        }
        return {name: self.pinned(torch.from_numpy(array)) for name, array in arrays.items()}

    def pinned(self, tensor: Tensor) -> Tensor:
        """The tensor where the device can fetch it by itself."""
        return tensor.pin_memory() if self._pin else tensor


def random_frames(*shape: int, device: torch.device | str = "cpu") -> Tensor:
    """uint8 noise."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)


def cropped_on_host(
    bench: Bench, name: str, *, batch: int
) -> tuple[Callable[[], Batch], nn.Module]:
    """Views as loader processes hand them over: cropped, in pinned memory."""
    T, S = architecture(name).num_frames, architecture(name).img_size
    draws, feed = Draws(bench, name, batch=batch), DeviceFeed(bench.device)
    ready = itertools.cycle(
        [tuple(draws.pinned(random_frames(batch, T, S, S, 3)) for _ in range(2)) for _ in range(3)]
    )

    def fetch() -> Batch:
        online, target = next(ready)
        drawn = draws(height=S, width=S)
        drawn.pop("box")
        return feed({"online": online, "target": target, **drawn})

    return fetch, DeviceViews()


def whole_frames(bench: Bench, name: str, *, batch: int) -> tuple[Callable[[], Batch], nn.Module]:
    """Frames as they were decoded, in pinned memory; the device crops them."""
    T, S = architecture(name).num_frames, architecture(name).img_size
    H, W = (256, 340) if not bench.quick else (36, 48)
    draws, feed = Draws(bench, name, batch=batch), DeviceFeed(bench.device)
    ready = itertools.cycle([draws.pinned(random_frames(batch, 2 * T, H, W, 3)) for _ in range(3)])
    return lambda: feed({"frames": next(ready), **draws(height=H, width=W)}), DeviceCrops(S)


def resident(bench: Bench, name: str, *, batch: int) -> tuple[Callable[[], Batch], nn.Module]:
    """A data set that lies on the device as uint8; only draws are copied."""
    T, S = architecture(name).num_frames, architecture(name).img_size
    H, W, F = (128, 171, 64) if not bench.quick else (36, 48, 20)
    videos = bench.size(1024, small=8)
    data = random_frames(videos, F, H, W, 3, device=bench.device)
    draws, feed = Draws(bench, name, batch=batch), DeviceFeed(bench.device)
    rng = np.random.default_rng(1)

    def fetch() -> Batch:
        start = rng.integers(0, F - T - 1, (batch, 2, 1))  # of either view
        time = (start + np.arange(T)).reshape(batch, 2 * T)
        chosen = {
            "video": draws.pinned(torch.from_numpy(rng.integers(0, videos, batch))),
            "time": draws.pinned(torch.from_numpy(time)),
        }
        moved = feed({**chosen, **draws(height=H, width=W)})
        return {**moved, "frames": data[moved["video"][:, None], moved["time"]]}

    return fetch, DeviceCrops(S)


SOURCES = {
    "cropped views in pinned memory": cropped_on_host,
    "whole frames in pinned memory": whole_frames,
    "data set on the device": resident,
}


class FedStep:
    """A training step with all that its input needs."""

    def __init__(
        self, bench: Bench, step: TrainStep, fetch: Callable[[], Batch], views: nn.Module
    ) -> None:
        self._bench, self._step, self._fetch, self._views = bench, step, fetch, views

    def inputs(self) -> Inputs:
        """Both views and the mask."""
        batch = self._fetch()
        with autocast(self._bench.dtype, self._bench.device):
            online, target = self._views(batch)
        return online, target, batch["mask"]

    def __call__(self) -> Tensor:
        """A step on a new batch."""
        return self._step.on(self.inputs())


def input_path(bench: Bench) -> None:
    """What each way of feeding adds to a step on clips that are there already."""
    name, batch = bench.model("base"), bench.size(64, small=2)

    def bare() -> Figures:
        step = pretraining_step(bench, name, batch=batch, how=bench.how)
        return throughput(bench, step, batch=batch)

    def fed(source: str, *, compiled: bool) -> Figures:
        step = pretraining_step(bench, name, batch=batch, how=bench.how)
        fetch, views = SOURCES[source](bench, name, batch=batch)
        views.to(bench.device)
        if compiled:
            views.compile(dynamic=False, fullgraph=True, backend=bench.backend)
        whole = FedStep(bench, step, fetch, views)
        alone = time_calls(bench, whole.inputs).median
        figures = {**throughput(bench, whole, batch=batch), "input alone ms": alone * 1e3}
        if base is not None:
            figures["added to the step"] = float(figures["ms"]) / float(base["ms"]) - 1
        return figures

    base = bench.case("input", "clips that lie on the device", bare)
    ways = {
        f"{source}, {'compiled' if compiled else 'eager'}": (source, compiled)
        for source, compiled in itertools.product(SOURCES, (False, True))
    }
    small = [case for case, (source, compiled) in ways.items() if not compiled]
    for case, (source, compiled) in bench.cases(ways, small=[*small, list(ways)[-1]]).items():
        bench.case("input", case, partial(fed, source, compiled=compiled))
