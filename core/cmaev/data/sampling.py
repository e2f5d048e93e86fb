"""Which frames of a video a clip is made of (method: VideoMAE's dense sampling, CMAE-V section 3).

A clip takes `clip.frames` frames, `clip.stride` apart. Where the video ends first, the last frame
that the stride reaches is repeated. All indices lie in 0 .. num_frames - 1; arrays are int64.
"""

import numpy as np
from numpy.typing import NDArray

from cmaev_spec.data import ClipSpec

IndexArray = NDArray[np.int64]


def clip_at(num_frames: int, clip: ClipSpec, *, start: int) -> IndexArray:
    """Frames start, start + stride, …, (T,); at the end of the video the last one repeats."""
    assert 0 <= start < num_frames, f"start {start} outside a video of {num_frames} frames"
    steps = np.minimum(np.arange(clip.frames), (num_frames - 1 - start) // clip.stride)
    return start + steps * clip.stride


def train_clip(num_frames: int, clip: ClipSpec, *, rng: np.random.Generator) -> IndexArray:
    """A clip (T,) whose start is uniform over the places where its whole span fits."""
    start = int(rng.integers(max(num_frames - clip.span, 0) + 1))
    return clip_at(num_frames, clip, start=start)


def pretrain_pair(
    num_frames: int, clip: ClipSpec, *, shift: int, rng: np.random.Generator
) -> tuple[IndexArray, IndexArray]:
    """The online clip (T,) and the target clip (T,), which begins δ raw frames later.

    δ is uniform in 0 .. shift, both ends included; the start is uniform over the places that leave
    room for the largest shift. A video too short for that lowers the largest shift, down to 0.
    """
    room = max(num_frames - clip.span, 0)
    largest = min(shift, room)
    start = int(rng.integers(room - largest + 1))
    delta = int(rng.integers(largest + 1))
    return (
        clip_at(num_frames, clip, start=start),
        clip_at(num_frames, clip, start=start + delta),
    )


def eval_clips(num_frames: int, clip: ClipSpec, *, num_clips: int) -> IndexArray:
    """Clips (num_clips, T), evenly from the first frame to the last; a single one is centred."""
    reached = -(-num_frames // clip.stride)
    room = max(reached - clip.frames, 0)
    steps = (
        [room // 2] if num_clips == 1 else [k * room // (num_clips - 1) for k in range(num_clips)]
    )
    return np.stack([clip_at(num_frames, clip, start=step * clip.stride) for step in steps])
