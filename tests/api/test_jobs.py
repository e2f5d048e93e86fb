"""`/v1/jobs`: what users may ask, and what they are told when it is wrong."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from cmaev_spec.job import parse_job
from cmaev_spec.wire import content_hash


def test_a_job_is_stored_resolved_with_its_hash_and_sent_to_the_workers(plane, specs, sent):
    response = plane.user.post("/v1/jobs", json=specs(name="first"))
    job = response.json()
    assert response.status_code == 201
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    resolved = parse_job(specs(name="first"))
    assert job["spec"] == resolved.model_dump(mode="json")
    assert job["content_hash"] == content_hash(resolved)
    assert (job["state"], job["kind"], job["name"]) == ("queued", "pretrain", "first")
    assert sent() == [job["attempts"][0]["id"]]


def test_a_repeat_with_the_same_key_and_body_is_the_same_job(plane, specs, sent):
    headers = {"Idempotency-Key": "k1"}
    first = plane.user.post("/v1/jobs", json=specs(), headers=headers)
    again = plane.user.post(
        "/v1/jobs", json=specs(seed=0), headers=headers
    )  # the default, spelt out
    other = plane.user.post("/v1/jobs", json=specs(seed=1), headers=headers)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert again.json()["id"] == first.json()["id"]
    assert other.json()["field"] == "Idempotency-Key"
    assert len(sent()) == 1


def test_simultaneous_repeats_make_one_job(any_plane, specs, sent):
    def post(_number):
        return any_plane.user.post("/v1/jobs", json=specs(), headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(post, range(8)))
    assert sorted(response.status_code for response in responses) == [200] * 7 + [201]
    assert len({response.json()["id"] for response in responses}) == 1
    assert len(sent()) == 1


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"model": {"nam": "x"}}, "model.nam", "unknown field"),
        (
            {"optim": {"base_lr": -1, "batch_size": 4, "epochs": 2}},
            "optim.base_lr",
            "greater than 0",
        ),
        ({"kind": "pretrian"}, "kind", "must be one of pretrain"),
        ({"data": {"index": "/nowhere/train.csv"}}, "data.index", "there is no file /nowhere"),
        ({"data": {"index": "train.csv"}}, "data.index", "must be an absolute path"),
    ],
)
def test_a_wrong_specification_names_the_field(plane, specs, sent, change, field, words):
    response = plane.user.post("/v1/jobs", json={**specs(), **change})
    problem = response.json()
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["field"] == field
    assert words in problem["detail"]
    assert sent() == []
    assert plane.user.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize("rate", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_rate_that_is_not_finite_is_refused(plane, specs, rate):
    optim = {"base_lr": "HERE", "batch_size": 4, "epochs": 2}
    body = json.dumps(specs(optim=optim)).replace('"HERE"', rate)
    response = plane.user.post(
        "/v1/jobs", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 422
    assert response.json()["field"] == "optim.base_lr"
    assert "finite number" in response.json()["detail"]


def test_every_wrong_path_is_named_at_once(plane, specs, index, tmp_path):
    data = {"index": str(tmp_path / "none"), "val_index": str(index), "root": str(index)}
    problem = plane.user.post("/v1/jobs", json=specs("finetune", data=data)).json()
    assert {item["field"] for item in problem["errors"]} == {"data.index", "data.root"}
    assert "CMAEV_SHARED_FILES" in problem["fix"]


@pytest.mark.parametrize("place", ["s3://bucket/train.csv", "{}", "{}/*.csv"])
def test_an_index_may_be_a_url_a_folder_or_shards(plane, specs, index, place):
    data = {"index": place.format(index.parent), "root": "s3://bucket/videos"}
    assert plane.user.post("/v1/jobs", json=specs(data=data)).status_code == 201


def test_an_empty_folder_or_pattern_is_refused(plane, specs, tmp_path):
    (tmp_path / "empty").mkdir()
    for place, words in (("empty", "is empty"), ("*.tar", "there is no file")):
        problem = plane.user.post("/v1/jobs", json=specs(data={"index": str(tmp_path / place)}))
        assert words in problem.json()["detail"]


def test_an_index_that_is_empty_or_unreadable_is_refused(plane, specs, index):
    index.write_text("")
    assert "is empty" in plane.user.post("/v1/jobs", json=specs()).json()["detail"]
    if os.getuid() != 0:
        index.write_text("a.mp4,0\n")
        index.chmod(0)
        assert "cannot be read" in plane.user.post("/v1/jobs", json=specs()).json()["detail"]


def test_paths_are_left_alone_where_only_workers_see_them(start, settings, specs):
    plane = start(settings.model_copy(update={"shared_files": False}))
    body = specs(data={"index": "/mounted/train.csv"})
    assert plane.user.post("/v1/jobs", json=body).status_code == 201


def test_a_reference_must_be_there_fit_and_be_alive(plane, specs, submit):
    unknown = plane.user.post("/v1/jobs", json=specs("finetune", init="job:nope")).json()
    assert (unknown["status"], unknown["field"]) == (422, "init")
    pretrain = submit()
    unfit = plane.user.post("/v1/jobs", json=specs("export", source=f"job:{pretrain}")).json()
    assert unfit["field"] == "source"
    assert "starts from a finetune job" in unfit["detail"]
    plane.user.post(f"/v1/jobs/{pretrain}:cancel")
    dead = plane.user.post("/v1/jobs", json=specs("finetune", init=f"job:{pretrain}")).json()
    assert "is cancelled" in dead["detail"]
    assert f"{pretrain}:retry" in dead["fix"]


def test_a_run_directory_as_reference_must_be_one(plane, specs, tmp_path):
    for path, words in ((tmp_path, "no spec.json"), ("runs/x", "absolute path or job:<id>")):
        problem = plane.user.post("/v1/jobs", json=specs("export", source=str(path))).json()
        assert problem["field"] == "source"
        assert words in problem["detail"]


def test_training_may_start_from_files_and_folders_of_weights(plane, specs, tmp_path):
    for name in ("videomae.pth", "model.safetensors"):
        (tmp_path / name).touch()
        for kind in ("pretrain", "finetune"):
            body = specs(kind, init=str(tmp_path / name))
            assert plane.user.post("/v1/jobs", json=body).status_code == 201
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").touch()
    body = specs("finetune", init=str(tmp_path / "hub"))
    assert plane.user.post("/v1/jobs", json=body).status_code == 201
    problem = plane.user.post("/v1/jobs", json=specs("export", source=body["init"])).json()
    assert "not a run directory" in problem["detail"]


def test_weights_that_no_model_can_start_from_are_refused(plane, specs, tmp_path, index):
    for path, words in (
        (tmp_path / "none.pth", "is not there"),
        (index, "no file of weights"),
        (tmp_path, "neither a run directory"),
        ("weights.pth", "absolute path or job:<id>"),
    ):
        problem = plane.user.post("/v1/jobs", json=specs("finetune", init=str(path))).json()
        assert problem["field"] == "init"
        assert words in problem["detail"]


def test_which_kinds_of_job_training_may_start_from(plane, specs, submit):
    pretrain = submit()
    finetune = submit("finetune", init=f"job:{pretrain}")
    submit("finetune", init=f"job:{finetune}")
    submit("pretrain", init=f"job:{pretrain}")
    body = specs("pretrain", init=f"job:{finetune}")
    problem = plane.user.post("/v1/jobs", json=body).json()
    assert problem["field"] == "init"
    assert "a pretrain job starts from a pretrain job" in problem["detail"]


def test_a_probe_looks_at_runs_files_of_weights_or_nothing(plane, specs, submit, tmp_path):
    pretrain = submit()
    submit("probe", source=f"job:{submit('finetune', init=f'job:{pretrain}')}")
    (tmp_path / "videomae.pth").touch()
    submit("probe", source=str(tmp_path / "videomae.pth"))
    body = specs("probe", model={})
    problem = plane.user.post("/v1/jobs", json=body).json()
    assert "model and data.clip" in problem["detail"]
    body["data"] |= {"clip": {}, "val_index": str(tmp_path / "none.csv")}
    problem = plane.user.post("/v1/jobs", json=body).json()
    assert (problem["status"], problem["field"]) == (422, "data.val_index")
    problem = plane.user.post("/v1/jobs", json=specs("probe", source=str(tmp_path))).json()
    assert problem["field"] == "source"


@pytest.mark.parametrize("end", ["succeeded", "failed"])
def test_a_job_waits_for_the_one_it_starts_from(plane, submit, sent, end):
    pretrain = submit()
    finetune = submit("finetune", init=f"job:{pretrain}")
    export = submit("export", source=f"job:{finetune}")
    assert (plane.state(finetune), plane.state(export)) == ("waiting", "waiting")
    assert len(sent()) == 1
    plane.finish(pretrain, end)
    if end == "succeeded":
        assert sent() == [plane.attempt(finetune)]
        assert (plane.state(finetune), plane.state(export)) == ("queued", "waiting")
    else:
        assert sent() == []
        assert (plane.state(finetune), plane.state(export)) == ("failed", "failed")
        assert pretrain in plane.job(finetune)["error"]


def test_listing_pages_and_filters(plane, submit):
    ids = [submit(name=f"job {number}") for number in range(5)]
    submit("finetune")
    plane.user.post(f"/v1/jobs/{ids[0]}:cancel")
    first = plane.user.get("/v1/jobs", params={"limit": 2, "kind": "pretrain"}).json()
    second = plane.user.get(
        "/v1/jobs", params={"limit": 3, "kind": "pretrain", "cursor": first["next_cursor"]}
    ).json()
    assert [job["id"] for job in first["items"] + second["items"]] == ids[::-1]
    assert second["next_cursor"] is None
    states = {"state": ["cancelled", "failed"]}
    assert [job["id"] for job in plane.user.get("/v1/jobs", params=states).json()["items"]] == ids[
        :1
    ]


@pytest.mark.parametrize(
    ("params", "field"),
    [({"cursor": "x"}, "cursor"), ({"limit": 0}, "limit"), ({"state": "done"}, "state.0")],
)
def test_a_wrong_query_names_the_parameter(plane, params, field):
    response = plane.user.get("/v1/jobs", params=params)
    assert (response.status_code, response.json()["field"]) == (422, field)


def test_an_idle_job_is_cancelled_and_paused_at_once(plane, submit):
    job = submit()
    attempt = plane.attempt(job)
    assert plane.user.post(f"/v1/jobs/{job}:pause").json()["state"] == "paused"
    body = {"worker": "late", "host": "h", "pid": 1}
    assert plane.worker.post(f"/v1/attempts/{attempt}:lease", json=body).status_code == 409
    assert plane.user.post(f"/v1/jobs/{job}:resume").json()["state"] == "queued"
    assert plane.attempt(job) != attempt
    assert plane.user.post(f"/v1/jobs/{job}:cancel").json()["state"] == "cancelled"
    for action in ("cancel", "pause", "resume"):
        refused = plane.user.post(f"/v1/jobs/{job}:{action}")
        assert (refused.status_code, refused.json()["field"]) == (409, "state")


def test_a_paused_job_waits_again_if_its_reference_is_not_ready(plane, submit):
    finetune = submit("finetune", init=f"job:{submit()}")
    plane.user.post(f"/v1/jobs/{finetune}:pause")
    assert plane.user.post(f"/v1/jobs/{finetune}:resume").json()["state"] == "waiting"


def test_a_retry_is_a_new_job_with_a_parent(plane, submit, sent):
    job = submit(seed=7)
    assert plane.user.post(f"/v1/jobs/{job}:retry").status_code == 409
    plane.finish(job, "failed")
    sent()
    response = plane.user.post(f"/v1/jobs/{job}:retry")
    retry = response.json()
    assert response.status_code == 201
    assert (retry["parent_id"], retry["state"]) == (job, "queued")
    assert retry["spec"] == plane.job(job)["spec"]
    assert plane.state(job) == "failed"
    assert sent() == [retry["attempts"][0]["id"]]


@pytest.mark.parametrize(
    "path", ["", ":cancel", ":retry", "/events", "/logs", "/metrics", "/artifacts"]
)
def test_an_unknown_job_is_not_found(plane, path):
    method = "POST" if path.startswith(":") else "GET"
    response = plane.user.request(method, f"/v1/jobs/nope{path}")
    assert response.status_code == 404
    assert "'nope'" in response.json()["detail"]


def test_a_body_that_is_not_json_says_where(plane):
    headers = {"Content-Type": "application/json"}
    problem = plane.user.post("/v1/jobs", content=b'{"kind": ', headers=headers).json()
    assert (problem["status"], problem["field"]) == (422, "body")
    assert "is not JSON" in problem["detail"]


def test_a_name_that_no_database_can_store_breaks_nothing(any_plane, specs):
    status = any_plane.user.post("/v1/jobs", json=specs(name="a\0b")).status_code
    assert status in {201, 422}
    assert any_plane.user.get("/v1/jobs").status_code == 200
