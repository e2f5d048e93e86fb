"""The main job on the real stack: Valkey, API, Celery, TorchServe; from videos to an HTTP answer.

One stack serves all tests here, in order; the last one stops it and looks for what is left.
"""

import os
import secrets
import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest

from cmaev.data.synth import synthesise
from cmaev_api.client import ApiError, Client
from cmaev_api.demo.local import local_stack
from cmaev_api.demo.videos import Choice, Videos, export_job, finetune_job, pretrain_job
from cmaev_spec.job import parse_job
from cmaev_spec.rundir import RunDir
from cmaev_spec.state import JobState

MODEL = "tiny"


class Place:
    """Everything that the stack may touch, and a mark that all its processes carry."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.home, self.tmp, self.cwd = folder / "home", folder / "tmp", folder / "cwd"
        for path in (self.home, self.tmp, self.cwd):
            path.mkdir()
        self.marker = secrets.token_hex(8)
        made = synthesise(folder / "videos", classes=2, per_class=16, val_per_class=4)
        self.videos = Videos(train=made.train, val=made.val)

    def processes(self, *words: str) -> list[psutil.Process]:
        """The stack's processes, or those with all of these words on their command lines."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("CMAEV_TEST_MARKER") == self.marker
                if ours and process.pid != os.getpid() and {*words} <= {*process.cmdline()}:
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("e2e"))


@pytest.fixture(scope="module")
def stack(place):
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("CMAEV_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(place.home))
        patch.setenv("TMPDIR", str(place.tmp))
        patch.setenv("CMAEV_TEST_MARKER", place.marker)
        patch.setenv("CMAEV_LEASE_SECONDS", "12")
        patch.setenv("CMAEV_HEARTBEAT_SECONDS", "1")
        patch.setenv("CMAEV_SWEEP_SECONDS", "1")
        patch.chdir(place.cwd)
        with local_stack(place.state, log=place.folder / "stack.log") as client:
            yield client


def tiny(spec, **optim):
    data = spec.model_dump(mode="json")
    data["optim"] |= {"epochs": 2, "batch_size": 16, "warmup_epochs": 1, **optim}
    return parse_job(data)


@pytest.fixture(scope="module")
def pretrained(stack, place):
    return stack.wait(stack.submit(tiny(pretrain_job(Choice(), place.videos))).id)


@pytest.fixture(scope="module")
def finetuned(stack, place, pretrained):
    job = finetune_job(Choice(), place.videos, init=f"job:{pretrained.id}")
    return stack.wait(stack.submit(tiny(job)).id)


@pytest.fixture(scope="module")
def served(stack, finetuned):
    job = stack.wait(stack.submit(export_job(f"job:{finetuned.id}", model_name=MODEL)).id)
    assert job.state == JobState.SUCCEEDED, job.error
    return stack.deploy(job.id)


def test_pretraining_reports_events_metrics_and_artifacts(stack, pretrained):
    assert pretrained.state == JobState.SUCCEEDED, pretrained.error
    events = [item.event["type"] for item in stack.events(pretrained.id).items]
    assert events[0] == "started"
    assert events[-1] == "outcome"
    assert [row["step"] for row in stack.metrics(pretrained.id)] == [4]
    kinds = {artifact.kind for artifact in stack.artifacts(pretrained.id) if artifact.exists}
    assert {"checkpoint", "picture"} <= kinds
    assert "pretrain 4/4" in stack.logs(pretrained.id)[0]


def test_finetuning_measures_the_held_out_videos(finetuned):
    assert finetuned.state == JobState.SUCCEEDED, finetuned.error
    assert finetuned.summary["num_videos"] == 8


def test_the_endpoint_answers_as_the_evaluation_did(stack, place, finetuned, served):
    assert served.serving.status == "ready", served.serving.detail
    assert [step.kind for step in served.provenance] == ["export", "finetune", "pretrain"]
    stack.fetch(finetuned.id, "predictions.csv", place.folder / "predictions.csv")
    for line in (place.folder / "predictions.csv").read_text().splitlines()[1:]:
        path, _, predicted, probability = line.split(",")
        answer = stack.classify(MODEL, path, top_k=2)
        assert answer.predictions[0].label == predicted
        assert answer.predictions[0].probability == pytest.approx(float(probability), abs=2e-3)
        assert {item.label for item in answer.predictions} == {"left", "right"}
        assert len(answer.views[0].seconds) == 8


def test_a_killed_worker_costs_no_job(stack, place):
    """kill -9 of the Celery worker in mid-run: the job resumes and is trained once."""
    spec = tiny(pretrain_job(Choice(), place.videos), epochs=60)
    job = stack.submit(spec)
    run = RunDir(place.state / "runs" / job.id)
    eventually(lambda: len(run.complete_checkpoints()) >= 2)
    (worker,) = place.processes("cmaev_trainer")
    os.kill(worker.pid, signal.SIGKILL)
    job = stack.wait(job.id)
    assert job.state == JobState.SUCCEEDED, job.error
    assert [attempt.result for attempt in job.attempts] == ["lost", "succeeded"]
    started = [
        item.event["resumed_step"]
        for item in stack.events(job.id).items
        if item.event["type"] == "started"
    ]
    assert started[0] == 0 < started[1]
    steps = [row["step"] for row in stack.metrics(job.id)]
    assert steps == [*range(10, 121, 10)]


@pytest.mark.parametrize(
    ("status", "words", "change"),
    [
        (422, "data.idnex", {"data": {"idnex": "train.csv"}}),
        (422, "data.index", {"data": {"index": "/nowhere/train.csv"}}),
        (422, "init", {"kind": "finetune", "init": "job:0000000000000000"}),
    ],
)
def test_bad_specifications_are_refused(stack, place, status, words, change):
    spec = pretrain_job(Choice(), place.videos).model_dump(mode="json")
    if "kind" in change:
        spec = finetune_job(Choice(), place.videos, init=None).model_dump(mode="json")
    answer = post(stack, "/v1/jobs", json={**spec, **change})
    assert answer.status_code == status
    assert words in answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_label_out_of_range_fails_the_job_with_its_line(stack, place):
    index = place.folder / "range.csv"
    paths = [line.split(",")[0] for line in place.videos.val.read_text().splitlines()[1:]]
    index.write_text("path,label\n" + "".join(f"videos/{path},7\n" for path in paths))
    spec = tiny(finetune_job(Choice(), place.videos, init=None)).model_dump(mode="json")
    spec["data"]["val_index"] = str(index)
    job = stack.wait(stack.submit(parse_job(spec)).id)
    assert job.state == JobState.FAILED
    assert "range.csv:2" in job.error
    assert "out of range" in job.error
    assert job.attempts[-1].exit_code == 64


def broken_index(place, source):
    """A copy of an index with one row more, whose video is none; returns it and that row."""
    (place.folder / "broken.mp4").write_bytes(b"no video" * 500)
    index = place.folder / f"broken-{source.name}"
    rows = [f"videos/{line}\n" for line in source.read_text().splitlines()[1:]]
    index.write_text("path,label\n" + "".join(rows) + "broken.mp4,left\n")
    return index, f"{index.name}:{len(rows) + 2}"


def test_a_broken_video_to_measure_fails_the_job_with_its_line(stack, place):
    index, row = broken_index(place, place.videos.val)
    videos = Videos(train=place.videos.train, val=index)
    job = stack.wait(stack.submit(tiny(finetune_job(Choice(), videos, init=None))).id)
    assert job.state == JobState.FAILED
    assert row in job.error
    assert job.attempts[-1].exit_code == 64


def test_a_broken_video_to_train_on_is_replaced_and_reported_with_its_line(stack, place):
    index, row = broken_index(place, place.videos.train)
    videos = Videos(train=index, val=place.videos.val)
    job = stack.wait(stack.submit(tiny(pretrain_job(Choice(), videos))).id)
    assert job.state == JobState.SUCCEEDED
    warnings = [
        item.event["message"]
        for item in stack.events(job.id).items
        if item.event["type"] == "warning"
    ]
    assert any(row in message for message in warnings), warnings


@pytest.mark.parametrize(
    ("name", "body", "status", "words"),
    [
        (MODEL, b"just some text\n" * 100, {415, 422}, "video"),
        (MODEL, b"", {422}, "empty"),
        ("nobody", b"x" * 100, {404}, MODEL),
    ],
)
def test_bad_requests_to_the_endpoint(stack, served, name, body, status, words):
    answer = post(stack, f"/v1/models/{name}:classify", content=body)
    assert answer.status_code in status
    assert words in answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_wrong_key_is_refused(stack):
    answer = httpx.get(
        f"{stack.url}/v1/jobs", headers={"Authorization": "Bearer wrong"}, timeout=60
    )
    assert answer.status_code == 401
    with Client(stack.url, "wrong") as stranger, pytest.raises(ApiError, match="key"):
        stranger.jobs()


def test_nothing_is_left(stack, place, request):
    """Stops the stack: no process, and no file outside its state folder."""
    assert place.processes()
    request.getfixturevalue("stopped")
    eventually(lambda: not place.processes())
    left = [
        str(path.relative_to(place.folder))
        for folder in (place.home, place.tmp, place.cwd)
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert left == []


@pytest.fixture
def stopped(place):
    """What Ctrl-C does to the stack."""
    for process in place.processes("cmaev", "up"):
        process.send_signal(signal.SIGTERM)


def post(stack, path, **body):
    key = stack._http.headers["Authorization"]
    return httpx.post(stack.url + path, headers={"Authorization": key}, timeout=60, **body)


def eventually(condition, *, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
