"""The demo where it cannot begin: one clear line, before a stack is started."""

import subprocess
import sys
from pathlib import Path

import pytest

from cmaev_api.demo.local import StackFailedError, local_stack
from cmaev_api.demo.videos import Choice, prepare_videos
from cmaev_spec.exits import EXIT_BAD_INPUT, EXIT_FAILED, BadInput

CMAEV = Path(sys.executable).with_name("cmaev")


def demo(*arguments, **options):
    command = [CMAEV, "demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path, out):
    (tmp_path / "file").touch()
    result = demo("--out", tmp_path / out)
    assert result.returncode == EXIT_BAD_INPUT
    assert result.stderr.startswith(f"error: --out: cannot make the folder {tmp_path / out}: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_stack_that_does_not_start_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CMAEV_LEASE_SECONDS", "no number")
    log = tmp_path / "stack.log"
    with pytest.raises(StackFailedError) as caught, local_stack(tmp_path / "state", log=log):
        raise AssertionError("it started")
    assert str(caught.value).startswith("the stack did not start: CMAEV_LEASE_SECONDS: ")
    assert str(caught.value).endswith(f"; see {log}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("header", ["path,label\n", '"Path" label\n', ""])
@pytest.mark.parametrize("rows", [31, 32])
def test_fewer_videos_than_a_batch_are_refused(tmp_path, header, rows):
    index = tmp_path / "train.csv"
    separator = " " if " " in header else ","
    lines = [f"clip{number}.mp4{separator}a\n" for number in range(rows)]
    index.write_text(header + "\n".join(lines))
    choice = Choice(data=index, val_data=index)
    if rows == 32:
        assert prepare_videos(choice, out=tmp_path).train == index
        return
    with pytest.raises(BadInput, match=r"--data: .*train\.csv lists 31 .* at least 32"):
        prepare_videos(choice, out=tmp_path)


def test_too_few_videos_after_the_split_are_refused(tmp_path):
    index = tmp_path / "all.csv"
    for number in range(20):
        (tmp_path / f"{number}.mp4").touch()
    index.write_text("".join(f"{number}.mp4,{'ab'[number % 2]}\n" for number in range(20)))
    result = demo("--data", index, "--out", tmp_path / "out")
    assert result.returncode == EXIT_BAD_INPUT
    assert "lists 16 training videos after a fifth of --data was held out" in result.stderr
    assert not (tmp_path / "out" / "state").exists()


def test_an_index_that_cannot_be_read_is_bad_input(tmp_path):
    missing = tmp_path / "none.csv"
    with pytest.raises(BadInput, match=r"--data: cannot read .*none\.csv"):
        prepare_videos(Choice(data=missing, val_data=missing), out=tmp_path)


def test_the_command_ends_with_one_when_the_stack_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setenv("CMAEV_LEASE_SECONDS", "no number")
    for number in range(64):
        (tmp_path / f"{number}.mp4").touch()
    index = tmp_path / "all.csv"
    index.write_text("".join(f"{number}.mp4,{'ab'[number % 2]}\n" for number in range(64)))
    result = demo("--data", index, "--out", tmp_path / "out")
    assert result.returncode == EXIT_FAILED
    assert result.stderr.startswith("error: the stack did not start: ")
    assert len(result.stderr.splitlines()) == 1
