"""Bad videos and dying loader processes: the batches stay the same, and all of it is counted."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from faulty_videos import FaultyVideos, end_at_once

from cmaev.data.index import open_index
from cmaev.data.loader import EpochLoader
from cmaev.data.order import EpochOrder, Key
from cmaev.data.quarantine import Quarantine
from cmaev.data.views import PretrainViews
from cmaev_spec.data import ClipSpec, LoadingSpec, PretrainData
from cmaev_spec.exits import BadInput

VIDEOS, BATCH = 40, 4
# Long enough for a process that others keep from running; healthy samples take microseconds.
LIMITS = {"sample_seconds": 5.0, "worker_memory_gib": 0.5}

Open = Callable[..., EpochLoader]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Open]:
    """Makes loaders of videos with faults, and ends their processes."""
    opened: list[EpochLoader] = []

    def make(
        faults: dict[int, str], *, workers: int = 0, max_share: float = 0.5, **changes: object
    ) -> EpochLoader:
        options: dict[str, object] = {
            "batch_size": BATCH,
            "seed": 3,
            "shuffle": True,
            "drop_last": True,
            "replace_bad": True,
        }
        loader = EpochLoader(
            FaultyVideos(VIDEOS, tmp_path, faults),
            quarantine=Quarantine(videos=VIDEOS, max_share=max_share),
            loading=LoadingSpec(workers=workers, **LIMITS),
            **{**options, **changes},
        )
        opened.append(loader)
        return loader

    yield make
    for loader in opened:
        loader.close()


def batches(loader: EpochLoader, epoch: int = 0, start: int = 0) -> list[dict[str, torch.Tensor]]:
    return [
        {name: tensor.clone() for name, tensor in batch.items()}
        for batch in loader.epoch(epoch, start)
    ]


def assert_same(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)


def rows(epoch: list[dict[str, torch.Tensor]]) -> list[int]:
    return [int(row) for batch in epoch for row in batch["index"]]


def bad_rows(loader: EpochLoader) -> list[int]:
    return [video.row for video in loader.quarantine.listed()]


def test_another_video_stands_in_for_a_broken_one(load: Open) -> None:
    whole, replaced = load({}), load({5: "broken", 17: "broken"})
    expected, found = batches(whole), batches(replaced)
    assert bad_rows(replaced) == [5, 17]
    before, after = rows(expected), rows(found)
    assert {5, 17}.isdisjoint(after)
    assert [a for a, b in zip(after, before, strict=True) if b not in (5, 17)] == [
        b for b in before if b not in (5, 17)
    ], "the other samples stay where they are"


def test_a_stand_in_is_decided_by_seed_epoch_row_and_attempt() -> None:
    def video(seed: int, key: Key) -> int:
        order = EpochOrder(
            videos=10_000,
            batch_size=4,
            seed=seed,
            shuffle=True,
            drop_last=True,
            rank=0,
            world_size=1,
        )
        return order.video(key)

    drawn = [
        video(0, Key(0, 7, 1)),
        video(1, Key(0, 7, 1)),
        video(0, Key(1, 7, 1)),
        video(0, Key(0, 8, 1)),
        video(0, Key(0, 7, 2)),
    ]
    assert len(set(drawn)) == 5
    assert video(0, Key(0, 7, 1)) == drawn[0]
    assert video(0, Key(0, 7)) == 7


@pytest.mark.parametrize("workers", [1, 3])
def test_processes_replace_the_same_videos(load: Open, workers: int) -> None:
    faults = dict.fromkeys(range(0, VIDEOS, 4), "broken")
    alone, several = load(faults), load(faults, workers=workers)
    for epoch in (0, 1):
        assert_same(batches(alone, epoch), batches(several, epoch))
    assert bad_rows(alone) == bad_rows(several) == list(faults)


def test_a_resumed_epoch_replaces_as_the_whole_one_did(load: Open) -> None:
    """Also when the quarantine already knows what the first time had to find out."""
    faults = dict.fromkeys(range(0, VIDEOS, 4), "broken")
    whole, resumed = load(faults), load(faults)
    expected = batches(whole)
    resumed.quarantine.load_state_dict(whole.quarantine.state_dict())
    assert_same(batches(resumed, start=5 * BATCH), expected[5:])
    assert_same(batches(load(faults), start=5 * BATCH), expected[5:])


def test_bad_videos_are_met_in_the_order_of_the_batches(load: Open) -> None:
    """Whatever the processes have read ahead, a checkpoint holds what came before it."""
    faults = dict.fromkeys(range(0, VIDEOS, 4), "broken")
    met = []
    for workers in (0, 3):
        loader = load(faults, workers=workers)
        met.append([len(loader.quarantine) for _ in loader.epoch(0)])
    assert met[0] == met[1]
    assert met[0][0] < met[0][-1] == len(faults)


def test_too_many_bad_videos_stop_the_run_and_are_listed(load: Open, tmp_path: Path) -> None:
    loader = load(dict.fromkeys(range(10), "broken"), max_share=0.1)
    with pytest.raises(BadInput, match=r"data.max_bad_share: \d of 40 videos .* 4 may be") as error:
        batches(loader)
    assert "list.txt:" in str(error.value)


def test_videos_that_are_all_bad_stop_the_run(load: Open) -> None:
    loader = load(dict.fromkeys(range(VIDEOS), "broken"), max_share=1.0)
    with pytest.raises(BadInput, match="20 videos drawn in a row are bad"):
        batches(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_leaves_bad_videos_out_and_reports_them(load: Open, workers: int) -> None:
    options = {"replace_bad": False, "shuffle": False, "drop_last": False, "max_share": None}
    faults = dict.fromkeys((0, 1, 2, 3, 9), "broken")
    loader = load(faults, workers=workers, **options)
    assert rows(batches(loader)) == [row for row in range(VIDEOS) if row not in faults]
    assert bad_rows(loader) == list(faults)


@pytest.mark.parametrize("fault", ["hold_gil", "hungry", "crash"])
def test_a_video_that_ends_its_process_is_bad(load: Open, fault: str) -> None:
    """The rest of the epoch comes as if the video were merely broken."""
    reason = {
        "hold_gil": "reading it took longer than 5 seconds",
        "hungry": "reading it takes over 0.5 GiB of memory",
        "crash": "killed by SIGSEGV",
    }[fault]
    expected, loader = load({11: "broken"}), load({11: fault}, workers=2)
    assert_same(batches(loader), batches(expected))
    (bad,) = loader.quarantine.listed()
    assert (bad.row, bad.where) == (11, "row 11")
    assert reason in bad.reason
    assert_same(batches(loader, 1), batches(expected, 1))


def test_a_process_that_is_killed_once_costs_nothing(load: Open) -> None:
    """Kill -9 from outside says nothing about the video: it is read again, and healthy."""
    loader = load(dict.fromkeys((2, 11, 30), "killed_once"), workers=2)
    assert_same(batches(loader), batches(load({})))
    assert bad_rows(loader) == []


def test_a_video_that_is_late_once_is_healthy(load: Open) -> None:
    """The machine may have slept, or its disk: nothing that a video is to blame for."""
    loader = load({11: "stuck_once"}, workers=2)
    assert_same(batches(loader), batches(load({})))
    assert bad_rows(loader) == []


def test_processes_may_be_killed_at_any_time(load: Open) -> None:
    """Before, between and after batches; nothing is lost, given twice or out of order."""
    loader, found = load({}, workers=3), []
    for epoch in range(3):
        for number, batch in enumerate(loader.epoch(epoch)):
            found.append({name: tensor.clone() for name, tensor in batch.items()})
            with contextlib.suppress(ProcessLookupError):  # killed last time, not missed yet
                os.kill(loader.pids[(number + epoch) % 3], signal.SIGKILL)
    whole = load({})
    assert_same(found, [batch for epoch in range(3) for batch in batches(whole, epoch)])


def test_nothing_is_left_of_killed_and_closed_processes(load: Open) -> None:
    loader = load({11: "crash"}, workers=2)
    pids: set[int] = set()
    for _ in loader.epoch(0):
        pids |= set(loader.pids)
    assert len(pids) > 2, "the crash made others take over"
    loader.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not [child for child in active_children() if child.name.startswith("loader-")]
    assert len(batches(loader, 1)) == VIDEOS // BATCH, "a later epoch starts new ones"


def test_an_error_of_our_own_comes_through_with_its_trace(load: Open) -> None:
    loader = load({11: "mistake"}, workers=1)
    with pytest.raises(KeyError, match="a mistake of ours at 11") as error:
        batches(loader)
    assert "in mistake" in "".join(error.value.__notes__)


def test_processes_that_cannot_start_are_given_up(
    load: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = load({}, workers=1)
    monkeypatch.setattr("cmaev.data.loader_pool.work", end_at_once)
    with pytest.raises(RuntimeError, match="before they read anything"):
        batches(loader)


def test_a_file_that_hangs_the_decoder_does_not_stop_training(
    levels_mp4: bytes, tmp_path: Path
) -> None:
    """A FIFO blocks whoever opens it; here it takes the place of a video after the index."""
    names = ["0.mp4", "1.mp4", "fifo.mp4", "2.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(levels_mp4)
    (tmp_path / "list.txt").write_text("\n".join(names))
    index = open_index(tmp_path / "list.txt")
    (tmp_path / "fifo.mp4").unlink()
    os.mkfifo(tmp_path / "fifo.mp4")
    data = PretrainData(index=index.source, clip=ClipSpec(frames=4, stride=2, size=32))
    loader = EpochLoader(
        PretrainViews(index, data, grid=(2, 4, 4), mask_ratio=0.75, seed=0),
        batch_size=2,
        seed=0,
        shuffle=False,
        drop_last=True,
        replace_bad=True,
        quarantine=Quarantine(videos=4, max_share=0.25, path=tmp_path / "quarantine.csv"),
        index=index,
        loading=LoadingSpec(workers=2, **LIMITS),
    )
    with contextlib.closing(loader):
        found = rows(batches(loader))
    assert found[:2] == [0, 1]
    assert found[3] == 3
    assert found[2] != 2
    header, line = (tmp_path / "quarantine.csv").read_text().splitlines()
    assert header == "where,path,reason"
    assert line.startswith(f"{tmp_path}/list.txt:3,{tmp_path}/fifo.mp4,")


@pytest.mark.slow
def test_processes_do_not_grow() -> None:
    """The resident memory of 2000 samples is that of the first 500, within 5 %."""
    table = subprocess.check_output(
        [sys.executable, "-m", "bench.loader", "--size", "64"],
        cwd=Path(__file__).parents[3],
        text=True,
    )
    ratios = [float(line.split("|")[-2]) for line in table.splitlines()[4:]]
    assert len(ratios) == 2
    assert all(ratio < 1.05 for ratio in ratios), table
