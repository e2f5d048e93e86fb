"""From a video file to the input of an exported model, as evaluation sees it.

Shapes: V views, T frames, S pixels square.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmaev.data.decode import VideoInfo, open_video
from cmaev.data.errors import DataError
from cmaev.data.sampling import eval_clips
from cmaev.data.transforms import center_crop, resize_short_side
from cmaev_serving.limits import VideoLimits
from cmaev_serving.metadata import Sampling
from cmaev_spec.data import ClipSpec
from cmaev_spec.serving_protocol import ClipTimes


@dataclass(frozen=True, eq=False, kw_only=True)
class Views:
    """What a model looks at.

    Attributes:
        frames: uint8 (V, T, S, S, 3).
        times: which raw frames each view holds, and when they are shown.
        video: what was decoded, for people.
        milliseconds: time it took.
    """

    frames: NDArray[np.uint8]
    times: tuple[ClipTimes, ...]
    video: dict[str, float | int | str]
    milliseconds: float


def load_views(source: Path, sampling: Sampling, *, limits: VideoLimits) -> Views:
    """Decodes the frames of every view once and brings them to the model's size.

    Args:
        source: a video file.
        sampling: the metadata of the model.
        limits: what the file may ask for.

    Raises:
        DataError: if it is no video, is broken, or is over the limits; never naming a path.
    """
    begin = time.perf_counter()
    clip = ClipSpec(
        frames=sampling.frames,
        stride=sampling.stride,
        size=sampling.size,
        sampling=sampling.mode,
    )
    with open_video(source, limits=limits.to_decode()) as video:
        _check_shape(video.info, limits)
        count = video.num_frames
        wanted = eval_clips(count, clip, num_clips=sampling.num_clips)  # (V, T)
        needed, places = np.unique(wanted, return_inverse=True)
        decoded = video.decode(needed)
        info = video.info
    small = center_crop(resize_short_side(decoded.frames, sampling.size), sampling.size)
    places = places.reshape(wanted.shape)  # (V, T)
    times = tuple(
        ClipTimes(
            frames=tuple(indices.tolist()),
            seconds=tuple(np.round(decoded.timestamps[row], 6).tolist()),
        )
        for indices, row in zip(wanted, places, strict=True)
    )
    return Views(
        frames=small[places],
        times=times,
        video={
            "frames": count,
            "width": info.width,
            "height": info.height,
            "fps": round(info.fps, 4),
            "seconds": round(info.seconds, 3),
            "codec": info.codec,
        },
        milliseconds=(time.perf_counter() - begin) * 1000,
    )


def _check_shape(info: VideoInfo, limits: VideoLimits) -> None:
    """Scaling up the short side of a sliver would make its long side immense."""
    short, long = sorted((info.width, info.height))
    if not short or long / short > limits.max_aspect_ratio:
        raise DataError(
            f"its frames of {info.width}x{info.height} pixels are too narrow: one side may be at "
            f"most {limits.max_aspect_ratio:g} times the other"
        )
