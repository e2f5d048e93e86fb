"""What of a job may change when a run goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cmaev_spec.job import JobSpec, SpecError, apply_overrides, parse_job
from cmaev_spec.preset import load_preset
from cmaev_spec.rundir import RunDir


def changed(job: JobSpec, **fields: Any) -> JobSpec:
    settings = (f"{name.replace('__', '.')}={json.dumps(v)}" for name, v in fields.items())
    return parse_job(apply_overrides(job.model_dump(mode="json"), settings))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    folder = RunDir(tmp_path)
    folder.claim(parse_job(load_preset("nano-pretrain")))
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "second try"),
        ("resources__threads", 2),
        ("data__workers", 2),
        ("run__log_every", 3),
        ("run__keep_checkpoints", 7),
        ("run__compile", "blocks"),
        ("model__grad_checkpointing", True),
    ],
)
def test_what_has_no_influence_on_the_result_needs_no_permission(
    run: RunDir, field: str, value: object
) -> None:
    after = changed(run.read_job(), **{field: value})
    run.claim(after)
    assert run.read_job() == after
    assert not run.events.exists()


def test_all_differences_are_told_and_taken_where_they_are_allowed(run: RunDir) -> None:
    before = run.read_job()
    after = changed(before, optim__base_lr=0.5, run__precision="bf16", run__log_every=3)
    with pytest.raises(SpecError) as refusal:
        run.claim(after)
    text = str(refusal.value)
    assert "optim.base_lr is 0.008 there and 0.5 here; run.precision is 'auto' there and" in text
    assert "log_every" not in text
    assert "--allow-changes" in text
    assert run.read_job() == before
    run.claim(after, allow_changes=True)
    run.accept(run.next_job())
    assert run.read_job() == after
    (event,) = [json.loads(line) for line in run.events.read_text().splitlines()]
    assert event["type"] == "warning"
    assert "optim.base_lr was 0.008, is 0.5" in event["message"]
    run.claim(after, allow_changes=True)
    run.accept(run.next_job())
    assert len(run.events.read_text().splitlines()) == 1


def test_a_change_is_of_no_account_until_its_checks_are_passed(run: RunDir) -> None:
    """Where it is refused, and where the runner is killed before it knows."""
    before = run.read_job()
    after = changed(before, optim__base_lr=0.5)
    run.claim(after, allow_changes=True)
    assert run.read_job() == before
    assert run.next_job() == after
    assert not run.events.exists()
    run.claim(before)
    assert run.next_job() == before
    run.claim(after, allow_changes=True)
    run.withdraw()
    assert run.next_job() == before
    run.claim(after, allow_changes=True)
    run.claim(changed(before, run__log_every=3))
    assert run.next_job() == changed(before, run__log_every=3)
    with pytest.raises(SpecError, match="another run"):
        run.claim(after)


def test_accepting_what_was_not_asked_for_tells_nothing(run: RunDir) -> None:
    run.accept(run.next_job())
    run.accept(changed(run.read_job(), run__log_every=3))
    assert not run.events.exists()


def test_a_kill_while_a_change_is_accepted_leaves_one_job_or_the_other(run: RunDir) -> None:
    before = run.read_job()
    after = changed(before, optim__base_lr=0.5)
    run.claim(after, allow_changes=True)
    accept = "import sys; from cmaev_spec.rundir import RunDir; r = RunDir(sys.argv[1])\n"
    accept += "r.accept(r.next_job())"
    environment = {**os.environ, "CMAEV_FAULT": "write:spec.json"}
    command = [sys.executable, "-c", accept, str(run.path)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert run.read_job() == before
    assert run.next_job() == after
    subprocess.run(command, check=True)
    assert run.read_job() == after
    assert not run.asked.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1),
        ("init", "elsewhere"),
        ("model__name", "cmaev_vit_tiny_patch16_224"),
        ("optim__batch_size", 16),
        ("objective__decoder_depth", 1),
        ("objective__contrast_weight", 0.0),
    ],
)
def test_what_cannot_change_is_refused_even_so(run: RunDir, field: str, value: object) -> None:
    before = run.read_job()
    name = field.replace("__", ".")
    with pytest.raises(SpecError, match=f"keeps its {name}") as refusal:
        run.claim(changed(before, **{field: value, "optim__base_lr": 0.5}), allow_changes=True)
    assert "optim.base_lr is" in str(refusal.value)
    assert "--allow-changes" not in str(refusal.value)
    assert run.read_job() == before


def test_weights_of_the_losses_may_change_but_not_whether_there_is_a_target(run: RunDir) -> None:
    run.claim(changed(run.read_job(), objective__contrast_weight=0.5), allow_changes=True)
    run.accept(run.next_job())
    with pytest.raises(SpecError, match=r"keeps its objective\.contrast_weight"):
        run.claim(changed(run.read_job(), objective__contrast_weight=0.0), allow_changes=True)


def test_another_kind_is_another_run(run: RunDir) -> None:
    for allowed in (False, True):
        with pytest.raises(SpecError) as refusal:
            run.claim(parse_job(load_preset("nano-finetune")), allow_changes=allowed)
        told = f"{run.path} holds a pretrain run, this job is finetune; choose another directory"
        assert refusal.value.problems == [("run_dir", told)]


def test_only_training_goes_on_with_changes(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.claim(parse_job(load_preset("evaluate")))
    with pytest.raises(SpecError, match=r"keeps its data\.num_clips"):
        run.claim(changed(run.read_job(), data__num_clips=7), allow_changes=True)


def test_a_field_that_the_specification_got_since_is_no_change(run: RunDir) -> None:
    job = run.read_job()
    old = job.model_dump(mode="json")
    old["optim"].pop("eps")
    run.spec.write_text(json.dumps(old))
    run.claim(job)
    assert run.read_job() == job
