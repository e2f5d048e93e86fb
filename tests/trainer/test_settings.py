"""Wrong settings end with one line that names the variable."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmaev_spec.exits import BadInput
from cmaev_trainer.outcome import result_of
from cmaev_trainer.process import run_environment
from cmaev_trainer.settings import load_settings


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("CMAEV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CMAEV_REDIS_URL", "redis://:hunter2@127.0.0.1:1/0")
    monkeypatch.setenv("CMAEV_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("CMAEV_RUNS_DIR", str(tmp_path / "runs"))
    return monkeypatch


def test_missing_and_wrong_variables_are_named(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("CMAEV_RUNS_DIR")
    environment.setenv("CMAEV_API_URL", "not a url")
    with pytest.raises(BadInput, match=r"CMAEV_API_URL: .*CMAEV_RUNS_DIR: Field required"):
        load_settings()


def test_the_key_comes_from_the_setting_or_its_file(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="CMAEV_WORKER_KEY: set it"):
        load_settings().read_key()
    file = tmp_path / "key"
    environment.setenv("CMAEV_WORKER_KEY_FILE", str(file))
    with pytest.raises(BadInput, match="cannot read"):
        load_settings().read_key()
    file.write_text("\n")
    with pytest.raises(BadInput, match="is empty"):
        load_settings().read_key()
    file.write_text("from-file\n")
    assert load_settings().read_key() == "from-file"
    environment.setenv("CMAEV_WORKER_KEY", "direct")
    assert load_settings().read_key() == "direct"


def test_secrets_are_not_printed(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CMAEV_WORKER_KEY", "hidden-key")
    text = repr(load_settings())
    assert "hidden-key" not in text
    assert "hunter2" not in text


def test_a_run_does_not_get_the_secrets(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("CMAEV_WORKER_KEY", "hidden-key")
    variables = run_environment(tmp_path)
    assert variables["CMAEV_RUNS_DIR"] == str(tmp_path)
    assert not {"CMAEV_WORKER_KEY", "CMAEV_REDIS_URL"} & set(variables)


def test_the_worker_refuses_to_start_without_a_key(environment: pytest.MonkeyPatch) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "cmaev_trainer"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 64
    assert result.stderr.startswith("error: CMAEV_WORKER_KEY")
    assert result.stderr.count("\n") == 1


def test_the_worker_does_not_import_torch() -> None:
    code = (
        "import sys, cmaev_trainer.app, cmaev_trainer.tasks, cmaev_trainer.__main__;"
        "assert not {'torch', 'numpy', 'cmaev.train'} & set(sys.modules)"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CMAEV_")}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=clean)


@pytest.mark.parametrize(
    ("code", "asked", "result"),
    [
        (0, False, "succeeded"),
        (0, True, "succeeded"),
        (75, False, "stopped"),
        (64, False, "failed"),
        (1, False, "failed"),
        (2, True, "failed"),
        (-9, False, "crashed"),
        (137, False, "crashed"),
        (143, True, "stopped"),
        (-15, True, "stopped"),
    ],
)
def test_exit_codes_and_results(code: int, asked: bool, result: str) -> None:
    assert result_of(code, asked_to_stop=asked) == result
