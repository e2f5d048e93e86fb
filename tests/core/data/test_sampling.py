"""Every rule of sampling as a property, and the figures that the peers' rule gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmaev.data.errors import DataError
from cmaev.data.sampling import (
    clip_at,
    eval_clips,
    pretrain_pair,
    segment_frames,
    train_clip,
)
from cmaev_spec.data import ClipSpec, PretrainData

clips = st.builds(
    ClipSpec,
    frames=st.integers(1, 16).map(lambda half: 2 * half),
    stride=st.integers(1, 8),
    size=st.just(32),
)
lengths = st.integers(1, 400)
seeds = st.integers(0, 2**32 - 1)
modes = st.sampled_from(["dense", "linspace", "tsn"])


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


@given(lengths, clips, modes, seeds, st.integers(1, 12))
def test_every_rule_stays_inside_and_repeats_itself(
    num_frames: int, clip: ClipSpec, mode: str, seed: int, num_clips: int
) -> None:
    clip = clip.model_copy(update={"sampling": mode})
    drawn = [train_clip(num_frames, clip, rng=np.random.default_rng(seed)) for _ in range(2)]
    np.testing.assert_array_equal(*drawn)
    views = eval_clips(num_frames, clip, num_clips=num_clips)
    assert views.shape == (num_clips, clip.frames)
    for indices in (drawn[0], *views):
        assert indices.shape == (clip.frames,)
        assert indices.dtype == np.int64
        assert indices[0] >= 0
        assert indices[-1] < num_frames
        assert (np.diff(indices) >= 0).all()


@given(lengths, clips, seeds)
def test_tsn_takes_a_frame_of_each_segment(num_frames: int, clip: ClipSpec, seed: int) -> None:
    clip = clip.model_copy(update={"sampling": "tsn"})
    T = clip.frames
    indices = train_clip(num_frames, clip, rng=np.random.default_rng(seed))
    if num_frames < T:
        assert set(indices.tolist()) == set(range(num_frames)), "a short video keeps all frames"
        return
    places = indices * T / num_frames
    for segment, (index, place) in enumerate(zip(indices, places, strict=True)):
        assert segment * num_frames // T <= index < -(-(segment + 1) * num_frames // T), place


def test_tsn_reaches_the_whole_of_each_segment() -> None:
    clip = ClipSpec(frames=4, size=32, sampling="tsn")
    rng = np.random.default_rng(0)
    drawn = np.stack([train_clip(10, clip, rng=rng) for _ in range(500)])
    assert [sorted(set(column)) for column in drawn.T] == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]


def test_tsn_clips_of_the_published_protocol() -> None:
    """Something-Something: 32 indices int(tick x) and int(tick / 2 + tick x), dealt in turn."""
    clip = ClipSpec(frames=16, stride=2, size=224, sampling="tsn")
    for num_frames in (20, 45, 300):
        tick = num_frames / 16
        both = [int(tick * x) for x in range(16)] + [int(tick / 2 + tick * x) for x in range(16)]
        expected = np.stack([sorted(both)[0::2], sorted(both)[1::2]])
        np.testing.assert_array_equal(eval_clips(num_frames, clip, num_clips=2), expected)
    assert eval_clips(32, clip, num_clips=1)[0].tolist() == list(range(1, 32, 2))


@given(st.integers(1, 400), clips)
def test_tsn_clips_lie_in_between_each_other(num_frames: int, clip: ClipSpec) -> None:
    clip = clip.model_copy(update={"sampling": "tsn"})
    three = eval_clips(num_frames, clip, num_clips=3)
    merged = three.T.reshape(-1)
    assert (np.diff(merged) >= 0).all()
    assert np.ptp(np.diff(merged)) <= 1, "evenly spread"


def test_linspace_is_the_published_rule() -> None:
    """VideoMAE's finetuning: a window of T x stride, its end included, cut to the last frame."""
    clip = ClipSpec(frames=16, stride=4, size=224, sampling="linspace")
    rng = np.random.default_rng(0)
    drawn = np.stack([train_clip(80, clip, rng=rng) for _ in range(400)])
    assert sorted(set(drawn[:, 0])) == list(range(80 - 64 + 1))
    for indices in drawn:
        expected = np.clip(np.linspace(0, 64, num=16), 0, 63).astype(np.int64)
        np.testing.assert_array_equal(indices - indices[0], expected)
    short = np.clip(np.concatenate([np.linspace(0, 30, num=7), np.full(9, 30)]), 0, 29)
    np.testing.assert_array_equal(train_clip(30, clip, rng=rng), short.astype(np.int64))


def test_pretraining_takes_dense_clips_only() -> None:
    with pytest.raises(ValueError, match="pretraining needs dense"):
        PretrainData(index="a.csv", clip=ClipSpec(sampling="tsn"))


def test_a_segment_lies_inside_its_video() -> None:
    assert segment_frames(10, None) == range(10)
    assert segment_frames(10, (4, 6)) == range(4, 10)
    for segment in ((4, 7), (-1, 3), (2, 0)):
        with pytest.raises(DataError, match="but the video has 10"):
            segment_frames(10, segment)
