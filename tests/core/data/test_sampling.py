"""Every rule of sampling as a property, and the figures that the peers' rule gives."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cmaev.data.sampling import clip_at, eval_clips, pretrain_pair, train_clip
from cmaev_spec.data import ClipSpec

clips = st.builds(
    ClipSpec,
    frames=st.integers(1, 16).map(lambda half: 2 * half),
    stride=st.integers(1, 8),
    size=st.just(32),
)
lengths = st.integers(1, 400)
seeds = st.integers(0, 2**32 - 1)


def check_clip(indices: np.ndarray, num_frames: int, clip: ClipSpec) -> None:
    assert indices.shape == (clip.frames,)
    assert indices.min() >= 0
    assert indices.max() < num_frames
    steps = np.diff(indices)
    assert set(steps.tolist()) <= {0, clip.stride}
    repeats = np.flatnonzero(steps == 0)
    assert not repeats.size or (steps[repeats[0] :] == 0).all(), "only the last frame repeats"
    assert not repeats.size or indices[-1] + clip.stride >= num_frames


@given(lengths, clips, seeds)
def test_train_clip(num_frames: int, clip: ClipSpec, seed: int) -> None:
    indices = train_clip(num_frames, clip, rng=np.random.default_rng(seed))
    check_clip(indices, num_frames, clip)
    again = train_clip(num_frames, clip, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(indices, again)
    if num_frames >= clip.span:
        assert indices[-1] == indices[0] + (clip.frames - 1) * clip.stride


@given(lengths, clips, st.integers(0, 32), seeds)
def test_pretrain_pair(num_frames: int, clip: ClipSpec, shift: int, seed: int) -> None:
    online, target = pretrain_pair(num_frames, clip, shift=shift, rng=np.random.default_rng(seed))
    check_clip(online, num_frames, clip)
    check_clip(target, num_frames, clip)
    delta = target[0] - online[0]
    largest = min(shift, max(num_frames - clip.span, 0))
    assert 0 <= delta <= largest
    assert online[0] + largest + clip.span <= max(num_frames, clip.span)
    again = pretrain_pair(num_frames, clip, shift=shift, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(np.stack([online, target]), np.stack(again))


def test_shift_and_start_reach_both_ends_evenly() -> None:
    clip = ClipSpec(frames=8, stride=2, size=32)
    rng = np.random.default_rng(0)
    pairs = [pretrain_pair(30, clip, shift=4, rng=rng) for _ in range(5000)]
    starts = np.array([online[0] for online, _ in pairs])
    deltas = np.array([target[0] - online[0] for online, target in pairs])
    assert sorted(set(starts)) == list(range(30 - 16 - 4 + 1))
    counts = np.bincount(deltas)
    assert len(counts) == 5
    assert counts.min() > 850, "each δ of 0 .. p about 1000 times of 5000"


def test_a_short_video_lowers_the_shift() -> None:
    clip = ClipSpec(frames=8, stride=2, size=32)
    rng = np.random.default_rng(0)
    pairs = [pretrain_pair(18, clip, shift=4, rng=rng) for _ in range(300)]
    assert {int(online[0]) for online, _ in pairs} == {0}
    assert {int(target[0]) for _, target in pairs} == {0, 1, 2}


def test_the_last_reachable_frame_repeats() -> None:
    clip = ClipSpec(frames=16, stride=4, size=32)
    indices = train_clip(30, clip, rng=np.random.default_rng(0)).tolist()
    assert indices == [0, 4, 8, 12, 16, 20, 24] + [28] * 9
    assert clip_at(1, clip, start=0).tolist() == [0] * 16


@given(lengths, clips, st.integers(1, 12))
def test_eval_clips(num_frames: int, clip: ClipSpec, num_clips: int) -> None:
    indices = eval_clips(num_frames, clip, num_clips=num_clips)
    assert indices.shape == (num_clips, clip.frames)
    for view in indices:
        check_clip(view, num_frames, clip)
    starts = indices[:, 0]
    if num_clips > 1:
        assert starts[0] == 0
        assert indices[-1, -1] + clip.stride >= num_frames, "the last view ends at the end"
        assert np.ptp(np.diff(starts)) <= clip.stride, "evenly spread"


def test_eval_clips_of_the_published_protocol() -> None:
    clip = ClipSpec(frames=16, stride=4, size=224)
    assert eval_clips(300, clip, num_clips=5)[:, 0].tolist() == [0, 56, 116, 176, 236]
    assert eval_clips(300, clip, num_clips=1)[0, 0] == 116
