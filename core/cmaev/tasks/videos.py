"""How a training job reads its videos."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from cmaev.data.device_frames import DeviceFrames
from cmaev.data.held import Progress
from cmaev.data.index import VideoIndex
from cmaev.data.loader import EpochLoader
from cmaev.data.quarantine import Quarantine
from cmaev.data.views import FinetuneViews, PretrainViews
from cmaev.engine.context import Context
from cmaev.engine.progress import ProgressDisplay
from cmaev_spec.data import DataSpec
from cmaev_spec.exits import BadInput
from cmaev_spec.job import FinetuneJob, PretrainJob
from cmaev_spec.optim import OptimSpec

logger = logging.getLogger(__name__)


def training_loader(
    dataset: PretrainViews | FinetuneViews,
    index: VideoIndex,
    job: PretrainJob | FinetuneJob,
    context: Context,
) -> EpochLoader:
    """Shuffled micro-batches of this process."""
    world = context.world
    _tell_how_videos_are_read(index, job.data)
    finish = None
    if (held := dataset.hand_over()) is not None:
        finish = DeviceFrames(held, world.device, size=job.data.clip.size).fill
    return EpochLoader(
        dataset,
        batch_size=job.optim.batch_size // (world.size * job.optim.accumulate),
        seed=job.seed,
        shuffle=True,
        drop_last=True,
        replace_bad=True,
        quarantine=Quarantine(
            videos=len(index),
            max_share=job.data.max_bad_share,
            path=context.run.quarantine if world.main else None,
        ),
        index=index,
        finish=finish,
        rank=world.rank,
        world_size=world.size,
        loading=job.data,
    )


def steps_per_epoch(optim: OptimSpec, index: VideoIndex) -> int:
    """Optimiser steps of an epoch.

    Raises:
        BadInput: if the index has fewer videos than one batch.
    """
    steps = optim.steps_per_epoch(len(index))
    if steps == 0:
        raise BadInput(
            f"optim.batch_size: {optim.batch_size} is more than the {len(index)} videos of "
            f"{index.source}; choose a smaller batch"
        )
    return steps


@contextmanager
def filling(index: VideoIndex, data: DataSpec, context: Context) -> Iterator[Progress]:
    """Shows how far the videos are read into the cache, where there is one."""
    shown = context.world.main and data.cache != "none"
    with ProgressDisplay("read videos", total=len(index), enabled=shown) as display:
        yield lambda done, _total: display.update(done)


def _tell_how_videos_are_read(index: VideoIndex, data: DataSpec) -> None:
    verified = index.num_verified
    if verified == 0:
        logger.info(
            "none of the %d videos is verified, so all are read by the reference decoder; "
            "`cmaev data check %s` finds bad ones, and those that a faster decoder reads right",
            len(index),
            index.source,
        )
    else:
        logger.info("%d of the %d videos are verified", verified, len(index))
    if data.workers == 0 and verified < len(index):
        logger.info("data.workers is 0: nothing stops a video that hangs its decoder")
