"""Which frames of a video a clip is made of (method.md 4.2, 4.3, 5, 5.1).

`dense` clips take `clip.frames` frames, `clip.stride` apart (VideoMAE, CMAE-V section 3).
`linspace` clips are VideoMAE's in finetuning: as dense, but spread over the window with its end, so
that the steps are a little longer. `tsn` clips take a frame of each of `clip.frames` equal segments
of the video (Something-Something). A video that is too short repeats frames; each rule says which.

All indices lie in 0 .. num_frames - 1 and never fall; arrays are int64.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmaev.data.errors import DataError
from cmaev_spec.data import ClipSpec

IndexArray = NDArray[np.int64]


def clip_at(num_frames: int, clip: ClipSpec, *, start: int) -> IndexArray:
    """Frames start, start + stride, …, (T,); at the end of the video the last one repeats."""
    assert 0 <= start < num_frames, f"start {start} outside a video of {num_frames} frames"
    steps = np.minimum(np.arange(clip.frames), (num_frames - 1 - start) // clip.stride)
    return start + steps * clip.stride


def train_clip(num_frames: int, clip: ClipSpec, *, rng: np.random.Generator) -> IndexArray:
    """A random clip (T,) by the rule that `clip.sampling` names."""
    return _TRAINING[clip.sampling](num_frames, clip, rng)


def eval_clips(num_frames: int, clip: ClipSpec, *, num_clips: int) -> IndexArray:
    """Clips (num_clips, T), evenly over the whole video; a single one is centred.

    Those of `tsn` lie in between each other: clip k takes the frame at k / num_clips of each
    segment, as in Something-Something's test on two clips.
    """
    assert num_clips > 0
    return _EVALUATION[clip.sampling](num_frames, clip, num_clips)


def pretrain_pair(
    num_frames: int, clip: ClipSpec, *, shift: int, rng: np.random.Generator
) -> tuple[IndexArray, IndexArray]:
    """The online clip (T,) and the target clip (T,), which begins δ raw frames later; both dense.

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


def segment_frames(num_frames: int, segment: tuple[int, int] | None) -> range:
    """The frames of a video that a row of an index means.

    Args:
        num_frames: of the whole video.
        segment: (start, total) of the row; None for the whole video.

    Raises:
        DataError: if the segment reaches beyond the video.
    """
    if segment is None:
        return range(num_frames)
    start, total = segment
    if start < 0 or total < 1 or start + total > num_frames:
        raise DataError(
            f"the row means frames {start} to {start + total - 1}, but the video has {num_frames}; "
            "correct its start and total"
        )
    return range(start, start + total)


def _dense_train(num_frames: int, clip: ClipSpec, rng: np.random.Generator) -> IndexArray:
    """The start is uniform over the places where the whole span fits."""
    start = int(rng.integers(max(num_frames - clip.span, 0) + 1))
    return clip_at(num_frames, clip, start=start)


def _linspace_train(num_frames: int, clip: ClipSpec, rng: np.random.Generator) -> IndexArray:
    """Points from the start of the window to its end; a short video is its own window.

    A short video takes as many points as its strides, then repeats its last frame.
    """
    window = min(clip.span, num_frames)
    points = clip.frames if num_frames >= clip.span else max(num_frames // clip.stride, 1)
    start = int(rng.integers(num_frames - window + 1))
    reached = start + np.linspace(0, window, num=points).astype(np.int64)
    padding = np.full(clip.frames - points, start + window, dtype=np.int64)
    indices: IndexArray = np.concatenate([reached, padding])
    return np.minimum(indices, start + window - 1)


def _tsn_train(num_frames: int, clip: ClipSpec, rng: np.random.Generator) -> IndexArray:
    """A random frame of each segment; a short video keeps all frames and repeats the first."""
    if num_frames < clip.frames:
        padding = np.zeros(clip.frames - num_frames, dtype=np.int64)
        return np.concatenate([padding, np.arange(num_frames)])
    edges = np.arange(clip.frames + 1) * num_frames // clip.frames
    return rng.integers(edges[:-1], edges[1:], dtype=np.int64)


def _dense_eval(num_frames: int, clip: ClipSpec, num_clips: int) -> IndexArray:
    """From the first frame to the last, by starts that are multiples of the stride."""
    reached = -(-num_frames // clip.stride)
    room = max(reached - clip.frames, 0)
    steps = (
        [room // 2] if num_clips == 1 else [k * room // (num_clips - 1) for k in range(num_clips)]
    )
    return np.stack([clip_at(num_frames, clip, start=step * clip.stride) for step in steps])


def _tsn_eval(num_frames: int, clip: ClipSpec, num_clips: int) -> IndexArray:
    """The same place in every segment; the middle for a single clip."""
    parts, first = (2, 1) if num_clips == 1 else (num_clips, 0)
    k = np.arange(num_clips)[:, None] + first  # (num_clips, 1)
    x = np.arange(clip.frames)
    return (x * parts + k) * num_frames // (clip.frames * parts)  # (num_clips, T)


_TRAINING: Final[dict[str, Callable[[int, ClipSpec, np.random.Generator], IndexArray]]] = {
    "dense": _dense_train,
    "linspace": _linspace_train,
    "tsn": _tsn_train,
}
_EVALUATION: Final[dict[str, Callable[[int, ClipSpec, int], IndexArray]]] = {
    "dense": _dense_eval,
    "linspace": _dense_eval,
    "tsn": _tsn_eval,
}
