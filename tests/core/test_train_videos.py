"""Bad videos, and other numbers of processes, in whole runs."""

import json
import signal
import subprocess
import time

import pytest
from runs import command, events, job, losses, run

from cmaev.engine.events import read_metrics
from cmaev_spec.job import parse_job
from cmaev_spec.rundir import RunDir

pytestmark = pytest.mark.usefixtures("own_signals")


@pytest.fixture
def listed_with_broken(videos, tmp_path):
    """Makes an index of `videos` whose last rows are broken videos; gives its path."""

    def write(name, broken):
        header, *rows = (videos / name).read_text().splitlines()
        lines = [header, *(f"{videos}/{row}" for row in rows)]
        for number in range(broken):
            (tmp_path / f"broken{number}.mp4").write_bytes(b"not a video at all" * 100)
            lines.append(f"broken{number}.mp4,left")
        (tmp_path / name).write_text("\n".join(lines))
        return tmp_path / name

    return write


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
def test_a_broken_video_is_replaced_counted_and_written_down(listed_with_broken, tmp_path, cache):
    index = listed_with_broken("train.csv", 1)
    spec = job("pretrain", index.parent, data__cache=cache, optim__batch_size=17)
    code, folder = run(tmp_path / "run", spec)
    assert code == 0
    _header, line = folder.quarantine.read_text().splitlines()
    assert line.startswith(f"{index}:18,{tmp_path}/broken0.mp4,it cannot be read")
    (warning,) = [event for event in events(folder) if event.type == "warning"]
    assert f"{index}:18" in warning.message
    assert [row["bad_videos"] for row in read_metrics(folder.metrics)] == [1, 1]
    assert json.loads(folder.summary.read_text())["bad_videos"] == 1


@pytest.mark.parametrize(("broken", "share"), [(1, 0.0), (3, 0.1)])
def test_too_many_broken_videos_end_the_run(listed_with_broken, tmp_path, broken, share, capsys):
    index = listed_with_broken("train.csv", broken)
    batch = {"optim__batch_size": 16 + broken, "data__max_bad_share": share}
    code, folder = run(tmp_path / "run", job("pretrain", index.parent, **batch))
    assert code == 64
    assert "data.max_bad_share" in events(folder)[-1].error
    assert f"{index}:18: " in capsys.readouterr().err
    assert f"{index}:18," in folder.quarantine.read_text()


@pytest.mark.parametrize("broken", [2, 8])
def test_an_evaluation_reports_every_broken_video_and_no_figures(
    listed_with_broken, finetuned, tmp_path, broken
):
    index = listed_with_broken("val.csv", broken)
    if broken == 8:  # Not one video is left.
        lines = index.read_text().splitlines()
        index.write_text("\n".join([lines[0], *lines[-8:]]))
    data = {"index": str(index), "batch_size": 4}
    spec = parse_job({"kind": "evaluate", "source": str(finetuned.path), "data": data})
    code, folder = run(tmp_path / "run", spec)
    assert code == 64
    error = events(folder)[-1].error
    assert f"{broken} of 8 videos" in error
    assert all(f"{tmp_path}/broken{number}.mp4" in error for number in range(broken))
    assert len(folder.bad_test_videos.read_text().splitlines()) == 1 + broken
    assert not folder.summary.exists()
    assert not (folder.path / "predictions.csv").exists()


def test_a_run_does_not_go_on_with_another_index(videos, tmp_path, capsys):
    index = tmp_path / "train.csv"
    header, *rows = (videos / "train.csv").read_text().splitlines()
    index.write_text("\n".join([header, *(f"{videos}/{row}" for row in rows)]))
    spec = job("pretrain", tmp_path)
    assert run(tmp_path / "run", spec)[0] == 0
    index.write_text("\n".join([header, *(f"{videos}/{row}" for row in rows[1:])]))
    assert run(tmp_path / "run", spec)[0] == 64
    assert "it lists 15 videos, and 16 when this run began" in capsys.readouterr().err


def test_a_run_of_two_processes_goes_on_in_one(videos, tmp_path):
    """From the middle of an epoch: the rest of it, and nothing else, as one process would."""
    few = {"optim__batch_size": 4, "optim__epochs": 4}
    alone = job("pretrain", videos, resources={"threads": 1}, **few)
    code, whole = run(tmp_path / "whole", alone)
    assert code == 0
    parts = RunDir(tmp_path / "parts")
    parts.claim(job("pretrain", videos, resources={"threads": 1, "processes_per_node": 2}, **few))
    process = subprocess.Popen(command(parts))
    while not read_metrics(parts.metrics) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    done = len(losses(parts))
    code, _ = run(tmp_path / "parts", alone)
    assert code == 0
    assert 0 < done < len(losses(parts)) == len(losses(whole)) == 16
    for one, other in zip(losses(parts), losses(whole), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3), one["step"]
