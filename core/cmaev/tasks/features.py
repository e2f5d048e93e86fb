"""Features of a frozen encoder: every video once, the same on every process afterwards.

Shapes: n videos, B videos of a batch, T frames, N = t*h*w tokens, D width.
"""

import math
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cmaev.data.index import VideoIndex
from cmaev.data.views import EvaluateViews
from cmaev.engine.context import Context
from cmaev.engine.progress import ProgressDisplay
from cmaev.models.encoder import VideoEncoder
from cmaev.models.frames import FrameNormaliser
from cmaev.tasks.measure import every_video_once, refuse_bad
from cmaev_spec.data import ClipSpec
from cmaev_spec.exits import BadInput
from cmaev_spec.probe import ProbeData

Grid = tuple[int, int, int]
Part = dict[str | Grid, Tensor]
"""What is known of some videos: by name, and their tokens by grid."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the encoder says of the videos of an index, in its order; on the CPU."""

    grid: Grid
    """Tokens of the encoder along (t, h, w)."""
    label: Tensor
    """(n,) classes."""
    pooled: Tensor
    """(n, D) fp32, means of the tokens."""
    tokens: dict[Grid, Tensor]
    """(n, t*h*w, D) fp16, averages of neighbours, for each grid that was asked for."""


@torch.no_grad()
def extract(
    encoder: VideoEncoder,
    index: VideoIndex,
    *,
    context: Context,
    data: ProbeData,
    clip: ClipSpec,
    grids: Collection[Grid],
    stage: str,
) -> Features | None:
    """Encodes the central view of every video; None if a stop was requested.

    Processes share the videos and exchange what they got after every batch. Tokens are averaged
    down to each of `grids`, (t, h, w).

    Raises:
        BadInput: naming every video that cannot be read, or if the features take too much memory.
    """
    _check_memory(encoder, len(index), grids, limit_gib=data.memory_gib)
    world = context.world
    views = EvaluateViews(index, clip=clip, num_clips=1, num_crops=1)
    loader = every_video_once(views, index, context, batch_size=data.batch_size, loading=data)
    encode = _encoding(encoder, grids, world.device)
    parts: list[Part] = []
    with (
        closing(loader),
        ProgressDisplay(stage, total=len(index), enabled=world.main) as display,
    ):
        batches = loader.epoch(0)
        for _ in range(-(-len(index) // (data.batch_size * world.size))):
            batch = next(batches, None)  # none is left for some ranks in the last round
            mine: Part = {} if batch is None else {**encode(batch["video"]), **_keys(batch)}
            parts += [part for part in world.gather(mine) if part]
            done = sum(len(part["index"]) for part in parts)
            display.update(done)
            context.events.progress(stage, step=done, total_steps=len(index))
            if world.any(context.stop.requested):
                return None
    refuse_bad(loader.quarantine, index, context)
    return _joined(parts, grid=encoder.grid)


def pool_tokens(tokens: Tensor, *, grid: Grid, to: Grid) -> Tensor:
    """Averages neighbours: (B, N, D) over `grid` -> (B, N', D) over the coarser `to`."""
    if grid == to:
        return tokens
    B, _, D = tokens.shape
    x = tokens.transpose(1, 2).reshape(B, D, *grid)  # (B, D, t, h, w)
    return F.adaptive_avg_pool3d(x, to).flatten(2).transpose(1, 2)  # (B, N', D)


def _encoding(
    encoder: VideoEncoder, grids: Collection[Grid], device: torch.device
) -> Callable[[Tensor], Part]:
    normalise = FrameNormaliser().to(device)

    def encode(video: Tensor) -> Part:
        frames = video.to(device, non_blocking=True).flatten(0, 1)  # (B, T, H, W, C), one view
        tokens = encoder(normalise(frames))  # (B, N, D)
        kept = {grid: pool_tokens(tokens, grid=encoder.grid, to=grid) for grid in grids}
        averages: Part = {
            grid: part.half().cpu() for grid, part in kept.items()
        }  # (B, t*h*w, D) each
        return {"pooled": tokens.mean(dim=1).cpu(), **averages}  # (B, D)

    return encode


def _keys(batch: dict[str, Tensor]) -> Part:
    # Copied: pinned memory is for the way to the device, not to be kept.
    return {name: batch[name].clone() for name in ("index", "label")}


def _joined(parts: list[Part], *, grid: Grid) -> Features:
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = joined["index"].argsort()
    assert torch.equal(joined["index"][order], torch.arange(len(order))), (
        "a video is not there once"
    )
    return Features(
        grid=grid,
        label=joined["label"][order],
        pooled=joined["pooled"][order],
        tokens={name: part[order] for name, part in joined.items() if isinstance(name, tuple)},
    )


def _check_memory(
    encoder: VideoEncoder, videos: int, grids: Collection[Grid], *, limit_gib: float
) -> None:
    for grid in grids:
        if any(wanted > own for wanted, own in zip(grid, encoder.grid, strict=True)):
            raise BadInput(
                f"linear.pool, attentive.pool: {grid} is more than the encoder's tokens along "
                f"(t, h, w), {encoder.grid}"
            )
    tokens = sum(math.prod(grid) for grid in grids)
    # Twice, since the batches are there until they are joined.
    gib = 2 * videos * encoder.embed_dim * (4 + 2 * tokens) / 2**30
    if gib > limit_gib:
        raise BadInput(
            f"data.memory_gib: the features of {videos} videos, {tokens} tokens each, take "
            f"{gib:.1f} GiB, more than {limit_gib:g}; raise it, set attentive.pool to fewer "
            "tokens, e.g. [4, 3, 4], or leave the attentive probe out (attentive: null)"
        )
