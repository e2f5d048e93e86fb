"""Commands of the library, as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from cmaev import cli


def presets(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [Path(sys.executable).with_name("cmaev"), "presets", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_preset_as_json_says_what_its_yaml_says() -> None:
    shown = presets("show", "nano-pretrain", "--json")
    assert json.loads(shown.stdout) == yaml.safe_load(presets("show", "nano-pretrain").stdout)


def test_an_unknown_preset_is_bad_input_that_lists_the_others() -> None:
    shown = presets("show", "none", "--json")
    assert shown.returncode == 64
    assert "nano-pretrain" in shown.stderr


def test_a_run_directory_that_is_read_only_is_bad_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked of the system as such a disk answers it, since root may write anywhere else."""
    (tmp_path / "pretrain.yaml").write_text(presets("show", "nano-pretrain").stdout)
    (run := tmp_path / "run").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == run and mode & os.W_OK))
    spec = str(tmp_path / "pretrain.yaml")
    monkeypatch.setattr(sys, "argv", ["cmaev", "train", spec, "--run-dir", str(run)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 64
    message = f"error: run_dir: {run} cannot be written into; choose another\n"
    assert capsys.readouterr().err == message
    assert not any(run.iterdir())


def test_a_full_disk_is_a_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Writing to this device fails as on a full disk."""

    def fill() -> None:
        Path("/dev/full").write_text("a")

    def build() -> typer.Typer:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.command()(fill)
        return app

    monkeypatch.setattr(cli, "build", build)
    monkeypatch.setattr(sys, "argv", ["cmaev"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    message = "error: No space left on device; make room, then run it again\n"
    assert capsys.readouterr().err == message
