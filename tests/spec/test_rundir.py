"""The run directory: claims and references."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmaev_spec.job import JobSpec, SpecError
from cmaev_spec.rundir import RunDir, resolve_run
from cmaev_spec.wire import canonical_json


def test_a_claim_writes_the_spec_and_can_be_repeated(tmp_path: Path, job: JobSpec) -> None:
    run = RunDir(tmp_path / "deep" / "run")
    run.claim(job)
    before = run.spec.stat().st_mtime_ns
    run.claim(job)
    assert run.read_job() == job
    assert run.spec.read_text() == canonical_json(job)
    assert run.spec.stat().st_mtime_ns == before


def test_another_job_cannot_have_it(tmp_path: Path, job: JobSpec, other_job: JobSpec) -> None:
    run = RunDir(tmp_path)
    run.claim(job)
    with pytest.raises(SpecError, match=r"run_dir: .* belongs to another run"):
        run.claim(other_job)
    assert run.read_job() == job


def test_a_job_goes_on_with_other_resources(tmp_path: Path, job: JobSpec) -> None:
    run = RunDir(tmp_path)
    run.claim(job)
    resources = job.resources.model_copy(update={"threads": 3})
    moved = job.model_copy(update={"resources": resources})
    run.claim(moved)
    assert run.read_job() == moved
    with pytest.raises(SpecError, match="seed is 0 there and 1 here"):
        run.claim(moved.model_copy(update={"seed": 1}))
    assert run.read_job() == moved


def test_other_files_are_not_mixed_with_ours(tmp_path: Path, job: JobSpec) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(SpecError, match="is not empty and is no run directory"):
        RunDir(tmp_path).claim(job)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_an_interrupted_claim_can_be_repeated(tmp_path: Path, job: JobSpec) -> None:
    (tmp_path / ".spec.json.abc123.tmp").write_text("{")
    (tmp_path / "log.txt").write_text("started\n")
    RunDir(tmp_path).claim(job)
    assert RunDir(tmp_path).read_job() == job


def test_a_path_that_cannot_be_a_directory(tmp_path: Path, job: JobSpec) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(SpecError, match="run_dir: cannot make"):
            RunDir(path).claim(job)


def test_of_two_jobs_at_once_one_gets_it(tmp_path: Path, job: JobSpec, other_job: JobSpec) -> None:
    code = (
        "import sys; from cmaev_spec.job import *; from cmaev_spec.rundir import *\n"
        "job = JOB_ADAPTER.validate_json(sys.argv[2]); sys.stdin.readline()\n"
        "try: RunDir(sys.argv[1]).claim(job)\n"
        "except SpecError: sys.exit(64)"
    )
    for round_ in range(3):
        path = tmp_path / str(round_)
        children = [
            subprocess.Popen(
                [sys.executable, "-c", code, path, item.model_dump_json()], stdin=subprocess.PIPE
            )
            for item in (job, other_job, job)
        ]
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
        codes = [child.wait(timeout=120) for child in children]
        winner = RunDir(path).read_job()
        assert codes == ([0, 64, 0] if winner == job else [64, 0, 64])
        assert os.listdir(path) == ["spec.json"]


def test_a_directory_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"is not a run directory: it has no spec\.json"):
        RunDir(tmp_path).read_job()


def test_labels(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_labels() == ()
    run.labels.write_text(json.dumps(["left", "right"]))
    assert run.read_labels() == ("left", "right")


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "pictures/../../x", "link/x"])
def test_no_path_leads_out(tmp_path: Path, path: str) -> None:
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    (run.path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out of the run directory"):
        run.resolve(path)


def test_a_path_within(tmp_path: Path) -> None:
    assert RunDir(tmp_path).resolve("pictures/a.png") == tmp_path.resolve() / "pictures" / "a.png"


def test_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CMAEV_RUNS_DIR", raising=False)
    assert resolve_run(str(tmp_path / "x")).path == tmp_path / "x"
    assert resolve_run("job:0197-ab", runs_dir=tmp_path).path == tmp_path / "0197-ab"
    with pytest.raises(SpecError, match="needs CMAEV_RUNS_DIR"):
        resolve_run("job:0197-ab")
    monkeypatch.setenv("CMAEV_RUNS_DIR", str(tmp_path))
    assert resolve_run("job:0197-ab").path == tmp_path / "0197-ab"


@pytest.mark.parametrize("reference", ["job:", "job:..", "job:a/b", "job:../a", "job:a b"])
def test_a_reference_cannot_leave_the_folder(tmp_path: Path, reference: str) -> None:
    with pytest.raises(SpecError, match="is not a job id"):
        resolve_run(reference, runs_dir=tmp_path)
