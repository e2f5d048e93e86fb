"""The commands against a real control plane on a real port."""

import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from typer.testing import CliRunner

from cmaev_api.app import create_app
from cmaev_api.client import ApiError, Client
from cmaev_api.commands import watch
from cmaev_api.local import ready
from cmaev_spec import lifeline
from cmaev_spec.ports import free_port


@pytest.fixture
def cmaev(monkeypatch, tmp_path):
    """Runs a command as `cmaev` would; returns (exit code, standard output, standard error)."""
    import typer

    from cmaev_api.cli import register
    from cmaev_spec.exits import EXIT_BAD_INPUT, BadInput

    app = typer.Typer()
    register(app)
    runner = CliRunner()
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        result = runner.invoke(app, [str(item) for item in arguments])
        if isinstance(result.exception, BadInput):
            return EXIT_BAD_INPUT, result.stdout, str(result.exception)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


class CountingClient(Client):
    """Knows how often it asked for a job."""

    polls = 0

    def job(self, job_id):
        self.polls += 1
        return super().job(job_id)


@pytest.fixture
def live(serving_plane, serve, monkeypatch):
    """The control plane of a test behind a real port, and the environment that finds it."""
    server = serve(create_app(serving_plane.settings))
    monkeypatch.setenv("CMAEV_URL", server.url)
    monkeypatch.setenv("CMAEV_API_KEY", serving_plane.settings.admin_key.get_secret_value())
    return serving_plane


@pytest.fixture
def submit(live, specs):
    return lambda: live.user.post("/v1/jobs", json=specs()).json()["id"]


@pytest.fixture
def spec_file(specs, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(specs()))
    return path


def test_a_url_in_a_job_stays_as_it_is(live, cmaev, spec_file):
    code, out, _ = cmaev("submit", spec_file, "--set", "data.index=s3://bucket/a.csv", "--json")
    assert (code, json.loads(out)["spec"]["data"]["index"]) == (0, "s3://bucket/a.csv")


def test_a_job_from_submit_to_retry(live, cmaev, spec_file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    override = "data.index=train.csv"  # relative to here
    code, out, _ = cmaev("submit", spec_file, "--set", override, "--set", "name=mine", "--json")
    job = json.loads(out)
    assert (code, job["name"]) == (0, "mine")
    assert job["spec"]["data"]["index"] == str(tmp_path / "train.csv")
    assert cmaev("jobs", "pause", job["id"])[1].split()[-1] == "paused"
    assert cmaev("jobs", "resume", job["id"])[1].split()[-1] == "queued"
    (live.run_dir(job["id"]) / "log.txt").write_text("hello\n")
    assert cmaev("jobs", "logs", job["id"])[1] == "hello\n"
    live.finish(job["id"], "failed")
    code, out, _ = cmaev("jobs", "watch", job["id"])
    assert code == 1
    assert "failed: the run ended with code 0" in out
    code, out, _ = cmaev("jobs", "retry", job["id"], "--json")
    assert json.loads(out)["parent_id"] == job["id"]
    code, out, _ = cmaev("jobs", "list")
    assert out.count("pretrain") == 2
    code, out, _ = cmaev("jobs", "list", "--state", "failed", "--json")
    assert [item["id"] for item in json.loads(out)] == [job["id"]]
    shown = yaml.safe_load(cmaev("jobs", "show", job["id"])[1])
    assert shown["state"] == "failed"


def test_watching_prints_plain_lines_and_ends_with_the_job(live, cmaev, spec_file):
    job = json.loads(cmaev("submit", spec_file, "--json")[1])["id"]
    grant = live.lease(job)
    step = {"type": "progress", "stage": "train", "step": 5, "total_steps": 10, "eta_seconds": 3.0}
    outcome = {"type": "outcome", "status": "succeeded", "exit_code": 0, "summary": {"top1": 0.75}}
    live.events(grant, {"type": "started"}, step, outcome)
    live.report(grant, "succeeded")
    code, out, _ = cmaev("jobs", "watch", job)
    assert code == 0
    assert "pretrain succeeded train 5/10 3 s left" in out
    assert "succeeded (top1 0.75)" in out


def test_a_pause_ends_the_watching_with_75(live, cmaev, spec_file):
    job = json.loads(cmaev("submit", spec_file, "--json")[1])["id"]
    cmaev("jobs", "pause", job)
    assert cmaev("jobs", "watch", job)[0] == 75


def test_what_keeps_a_job_from_starting_is_told_once(live, submit, specs, capsys, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BEFORE_REASON", 0.2)
    busy, queued = submit(), submit()
    live.lease(busy)
    later = specs("finetune", init=f"job:{busy}")
    waiting = live.user.post("/v1/jobs", json=later).json()["id"]
    for job, reason in (
        (queued, f"waiting for a free worker; under way: {busy}"),
        (waiting, f"waiting for job {busy}"),
    ):
        with CountingClient.from_environment() as client, ThreadPoolExecutor(1) as pool:
            watching, out, last_poll = pool.submit(watch.follow_job, client, job), "", math.inf
            while not watching.done() and client.polls < last_poll:
                out += capsys.readouterr().out
                if last_poll == math.inf and reason in out:
                    last_poll = client.polls + 2  # by then one more has had its say
                time.sleep(0.05)
            live.user.post(f"/v1/jobs/{job}:cancel")
            assert watching.result(60).state == "cancelled"
        out += capsys.readouterr().out
        assert out.splitlines().count(reason) == 1


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"dat": {}}, 64, "unknown field"),
        ({"data": {"index": "/nowhere.csv"}}, 64, "there is no file /nowhere.csv"),
    ],
)
def test_a_wrong_spec_ends_with_64(live, cmaev, specs, spec_file, change, code, words):
    spec_file.write_text(yaml.safe_dump({**specs(), **change}))
    result = cmaev("submit", spec_file)
    assert result[0] == code
    assert words in result[2]


def test_deploy_classify_and_delete(live, cmaev, agent, export, tmp_path):
    job, right = export(live), agent.token
    assert cmaev("models", "deploy", job)[1] == "motion version 1 ready\n"
    assert "motion" in cmaev("models", "list")[1]
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"video")
    code, out, _ = cmaev("classify", video, "--model", "motion", "--json")
    assert (code, json.loads(out)["predictions"][0]["label"]) == (0, "left")
    code, _, err = cmaev("classify", video, "--model", "montion")
    assert code == 1
    assert "choose one of: motion" in err
    agent.token = "another"
    code, _, err = cmaev("classify", video, "--model", "motion")
    assert (code, "cmaev models list" in err) == (1, True)
    agent.token = right
    assert cmaev("classify", tmp_path / "none.mp4", "--model", "motion")[0] == 64
    assert cmaev("models", "delete", "motion")[0] == 0
    assert json.loads(cmaev("models", "list", "--json")[1]) == []
    code, _, err = cmaev("classify", video, "--model", "motion")
    assert (code, "cmaev models deploy JOB_ID" in err) == (1, True)


def test_an_agent_that_is_away_is_told_with_what_to_do(
    live, serve, cmaev, export, tmp_path, monkeypatch
):
    cmaev("models", "deploy", export(live))
    gone = live.settings.model_copy(update={"serving_url": "http://127.0.0.1:9"})
    monkeypatch.setenv("CMAEV_URL", serve(create_app(gone)).url)
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"video")
    code, _, err = cmaev("classify", video, "--model", "motion")
    assert code == 1
    assert "does not answer" in err
    assert "fix: try again in a moment" in err


def test_a_video_that_is_too_large_gets_its_answer_over_a_real_socket(
    live, serve, cmaev, export, tmp_path, monkeypatch
):
    cmaev("models", "deploy", export(live))
    narrow = serve(create_app(live.settings.model_copy(update={"max_upload_bytes": 1000})))
    monkeypatch.setenv("CMAEV_URL", narrow.url)
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"x" * 20_000_000)
    code, _, err = cmaev("classify", video, "--model", "motion")
    assert code == 64
    assert "CMAEV_MAX_UPLOAD_BYTES" in err


def test_waiting_survives_a_restart_of_the_control_plane(live, serve, submit):
    port = free_port()
    server = serve(create_app(live.settings), port=port)
    job = submit()
    with Client(server.url, live.settings.admin_key.get_secret_value()) as client:
        server.stop()
        with pytest.raises(ApiError, match="does not answer"):
            client.wait(job, interval=0.05, patience=0.2)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.wait, job, interval=0.05)
            again = serve(create_app(live.settings), port=port)
            live.finish(job)
            assert waiting.result(60).state == "succeeded"
        assert again.url == server.url


@pytest.fixture
def worker(live, redis_url, tmp_path):
    """A real worker; its control plane is asked for nothing here."""
    environment = {
        **os.environ,
        "CMAEV_REDIS_URL": redis_url,
        "CMAEV_API_URL": os.environ["CMAEV_URL"],
        "CMAEV_WORKER_KEY": live.settings.worker_key.get_secret_value(),
        "CMAEV_RUNS_DIR": str(tmp_path / "runs"),
        "CMAEV_WORKER_NAME": "here",
    }
    command = [sys.executable, "-m", "cmaev_trainer"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = lifeline.spawn(command, env=environment, **quiet)
    deadline = time.monotonic() + 60
    while ready.worker(redis_url, "here") is not None:
        assert child.process.poll() is None
        assert time.monotonic() < deadline
    yield child
    child.close()


def test_doctor_tells_what_is_wrong(live, worker, cmaev, agent, monkeypatch, tmp_path):
    deadline = time.monotonic() + 60
    while (found := cmaev("doctor"))[0] and "none answers" in found[1]:
        assert time.monotonic() < deadline, found  # a busy machine may need more than a ping's time
    code, out, _ = found
    assert code == 0, out
    assert "1 answer, 0 attempts under way" in out
    worker.close()
    code, out, _ = cmaev("doctor")
    assert (code, "none answers" in out) == (1, True)
    agent.token = "another"
    code, out, _ = cmaev("doctor", "--json")
    assert code == 1
    assert [item["check"] for item in json.loads(out) if not item["ok"]] == [
        "serving",
        "workers",
    ]
    monkeypatch.setenv("CMAEV_API_KEY", "wrong")
    assert "key" in cmaev("doctor")[1]
    monkeypatch.setenv("CMAEV_URL", "http://127.0.0.1:9")
    code, out, _ = cmaev("doctor")
    assert (code, "cmaev up" in out) == (1, True)
    monkeypatch.delenv("CMAEV_API_KEY")
    monkeypatch.setenv("CMAEV_STATE_DIR", str(tmp_path / "none"))
    assert "set CMAEV_API_KEY" in cmaev("doctor")[1]
    assert cmaev("jobs", "list")[0] == 64


def test_keys_are_made_listed_and_revoked(cmaev, monkeypatch, tmp_path):
    monkeypatch.setenv("CMAEV_STATE_DIR", str(tmp_path / "keys"))
    code, secret, _ = cmaev("keys", "create", "ci", "--scope", "worker", "--scope", "admin")
    assert (code, secret.startswith("cmaev_")) == (0, True)
    [key] = json.loads(cmaev("keys", "list", "--json")[1])
    assert (key["name"], key["scopes"], key["revoked_at"]) == ("ci", ["admin", "worker"], None)
    assert secret.strip() not in cmaev("keys", "list")[1]
    assert cmaev("keys", "revoke", key["id"])[0] == 0
    assert json.loads(cmaev("keys", "list", "--json")[1])[0]["revoked_at"]
    assert cmaev("keys", "create", "x", "--scope", "root")[0] == 64
