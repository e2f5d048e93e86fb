"""Batches: complete, in a known order, resumable, and the same from any number of processes."""

import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmaev.data.index import VideoIndex, open_index
from cmaev.data.loader import EpochLoader
from cmaev.data.synth import synthesise
from cmaev.data.views import EvaluateViews, PretrainViews, Sample
from cmaev_spec.data import ClipSpec, LoadingSpec, PretrainData


class Numbers:
    """A dataset whose samples are their own index; counts what is asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, *, epoch: int) -> Sample:
        self.asked.append(index)
        return {"index": np.asarray(index, dtype=np.int64)}


def indices(loader: EpochLoader, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch["index"].tolist() for batch in loader.epoch(epoch, start)]


def loader(dataset: object, **changes: object) -> EpochLoader:
    workers = changes.pop("workers", 0)
    loading = LoadingSpec(workers=workers)
    options = {"batch_size": 4, "seed": 0, "shuffle": True, "drop_last": True, "loading": loading}
    options |= changes
    return EpochLoader(dataset, **options)


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 5), st.booleans())
def test_ranks_share_an_epoch_without_duplicates(
    count: int, batch_size: int, world_size: int, drop_last: bool
) -> None:
    seen: list[int] = []
    lengths = set()
    for rank in range(world_size):
        part = loader(
            Numbers(count),
            batch_size=batch_size,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
        )
        batches = indices(part)
        assert len(batches) == len(part)
        lengths.add(len(part))
        assert all(0 < len(batch) <= batch_size for batch in batches)
        seen += [index for batch in batches for index in batch]
    assert len(set(seen)) == len(seen)
    together = batch_size * world_size
    assert len(seen) == (count // together * together if drop_last else count)
    if drop_last:
        assert len(lengths) == 1, "all ranks take the same number of steps"


def test_epochs_have_orders_of_their_own() -> None:
    first = loader(Numbers(20))
    assert indices(first, 0) == indices(loader(Numbers(20)), 0)
    assert indices(first, 0) != indices(first, 1)
    assert indices(first, 0) != indices(loader(Numbers(20), seed=1), 0)
    assert indices(loader(Numbers(9), shuffle=False, drop_last=False)) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8],
    ]


def test_a_global_batch_is_the_same_for_any_number_of_ranks() -> None:
    whole = indices(loader(Numbers(24), batch_size=6))
    halves = [indices(loader(Numbers(24), batch_size=3, rank=r, world_size=2)) for r in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(b) for b in whole]


def test_starting_in_the_middle_decodes_nothing_before() -> None:
    dataset = Numbers(20)
    rest = indices(loader(dataset), 3, start=12)
    assert len(dataset.asked) == 8
    assert rest == indices(loader(Numbers(20)), 3)[3:]


def test_loading_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    indices(loader(Numbers(20)))
    torch.testing.assert_close(torch.rand(3), expected)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    made = synthesise(tmp_path_factory.mktemp("set") / "s", classes=2, per_class=6, val_per_class=1)
    return open_index(made.train)


def pretrain(videos: VideoIndex, cache: str = "none") -> PretrainViews:
    clip = ClipSpec(frames=4, stride=2, size=32)
    data = PretrainData(index=videos.source, clip=clip, cache=cache)
    return PretrainViews(videos, data, grid=(2, 4, 4), mask_ratio=0.75, seed=0)


def test_processes_change_nothing(videos: VideoIndex) -> None:
    """Also: an epoch that is left early, a start in the middle, shared frames, a clean end."""
    alone = loader(pretrain(videos, "memory"))
    several = loader(pretrain(videos, "memory"), workers=2)
    next(several.epoch(0))
    pids = [process.pid for process in torch.multiprocessing.active_children()]
    for epoch, start in ((0, 0), (1, 2)):
        pairs = list(
            zip(alone.epoch(epoch, 4 * start), several.epoch(epoch, 4 * start), strict=True)
        )
        assert len(pairs) == 3 - start
        for first, second in pairs:
            assert first.keys() == second.keys() >= {"online", "target", "mask", "index"}
            for name in first:
                torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
    several.close()
    assert len(pids) >= 2
    deadline = time.monotonic() + 120
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_video_is_named_plainly(videos: VideoIndex, tmp_path: Path, workers: int) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"\0" * 100)
    (tmp_path / "list.txt").write_text(f"{videos.paths[0]} 0\nbad.mp4 1\n")
    clip = ClipSpec(frames=4, stride=2, size=32)
    views = EvaluateViews(open_index(tmp_path / "list.txt"), clip=clip, num_clips=1, num_crops=1)
    broken = loader(views, batch_size=1, shuffle=False, drop_last=False, workers=workers)
    (batch,) = broken.epoch(0)
    assert batch["video"].shape == (1, 1, 4, 32, 32, 3)
    (bad,) = broken.quarantine.listed()
    assert bad.row == 1
    assert bad.where == f"{tmp_path}/list.txt:2"
    assert bad.path == f"{tmp_path}/bad.mp4"
    assert bad.reason.startswith("it cannot be read")
    broken.close()


@given(st.data())
def test_an_epoch_goes_on_with_more_or_fewer_ranks(data: st.DataObject) -> None:
    """What is left of each global batch is the same samples, whoever gets them."""
    count = data.draw(st.integers(1, 60), label="count")
    together = data.draw(st.sampled_from([2, 6, 12]), label="samples of a global batch")
    sizes = [size for size in (1, 2, 3, 6) if together % size == 0]
    before, after = (data.draw(st.sampled_from(sizes), label=name) for name in ("before", "after"))
    done = data.draw(st.integers(0, count // together), label="steps done")

    def global_batches(ranks: int, start: int) -> list[set[int]]:
        parts = [
            indices(
                loader(Numbers(count), batch_size=together // ranks, rank=rank, world_size=ranks),
                epoch=2,
                start=start,
            )
            for rank in range(ranks)
        ]
        return [set(chain(*batch)) for batch in zip(*parts, strict=True)]

    assert global_batches(after, done * together) == global_batches(before, 0)[done:]


def test_workers_end_when_their_parent_is_killed(videos: VideoIndex) -> None:
    code = f"""
import torch
from cmaev.data.index import open_index
from cmaev.data.loader import EpochLoader
from cmaev.data.views import EvaluateViews
from cmaev_spec.data import ClipSpec, LoadingSpec
if __name__ == "__main__":
    views = EvaluateViews(open_index({videos.source!r}),
                          clip=ClipSpec(frames=4, stride=2, size=32), num_clips=1, num_crops=1)
    batches = EpochLoader(views, batch_size=1, seed=0, shuffle=False, drop_last=False,
                          loading=LoadingSpec(workers=2)).epoch(0)
    next(batches)
    print(*[p.pid for p in torch.multiprocessing.active_children()], flush=True)
    import time; time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(_alive(pid) for pid in pids)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 120
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
