"""Deploying: what may be, what the agent is told, what happens when it forgets."""

import pytest


def test_an_export_is_deployed_with_version_and_history(serving_plane, agent, export):
    job = export(serving_plane, archive=b"first")
    response = serving_plane.user.post("/v1/models", json={"job": job})
    model = response.json()
    assert response.status_code == 201
    assert response.headers["Location"] == "/v1/models/motion"
    assert (model["serving"]["version"], model["serving"]["status"]) == (1, "ready")
    assert [item["kind"] for item in model["provenance"]] == ["export", "finetune", "pretrain"]
    assert agent.models["motion"]["sha256"] == model["serving"]["sha256"]
    second = export(serving_plane, archive=b"second")
    model = serving_plane.user.post("/v1/models", json={"job": f"job:{second}"}).json()
    assert [(item["version"], item["active"]) for item in model["versions"]] == [
        (2, True),
        (1, False),
    ]
    assert agent.models["motion"]["version"] == "2"
    listed = serving_plane.user.get("/v1/models").json()["items"]
    assert [(item["name"], item["version"]) for item in listed] == [("motion", 2)]


def test_only_the_archive_of_a_succeeded_export_is_deployed(serving_plane, specs, export):
    pretrain = serving_plane.user.post("/v1/jobs", json=specs()).json()["id"]
    for job, words in (("nope", "there is no job"), (pretrain, "only an export")):
        problem = serving_plane.user.post("/v1/models", json={"job": job}).json()
        assert (problem["status"], problem["field"]) == (422, "job")
        assert words in problem["detail"]
    bad_name = serving_plane.user.post("/v1/models", json={"job": pretrain, "name": "../x"})
    assert (bad_name.status_code, bad_name.json()["field"]) == (422, "name")


@pytest.mark.parametrize(("change", "words"), [("gone", "not there"), ("other", "not the one")])
def test_an_archive_that_is_gone_or_changed_is_refused(serving_plane, agent, export, change, words):
    job = export(serving_plane)
    archive = serving_plane.run_dir(job) / "export" / "model.mar"
    if change == "gone":
        archive.unlink()
    else:
        archive.write_bytes(b"tampered")
    response = serving_plane.user.post("/v1/models", json={"job": job})
    assert response.status_code == 409
    assert words in response.json()["detail"]
    assert agent.puts == 0


def test_an_agent_that_lost_its_models_gets_them_again(serving_plane, agent, export):
    serving_plane.user.post("/v1/models", json={"job": export(serving_plane)})
    agent.models.clear()
    serving_plane.app.state.reconciler.reconcile()
    assert agent.models["motion"]["version"] == "1"
    serving_plane.app.state.reconciler.reconcile()
    assert agent.puts == 2


def test_a_new_control_plane_offers_what_the_old_one_deployed(serving_plane, agent, export, start):
    serving_plane.user.post("/v1/models", json={"job": export(serving_plane)})
    agent.models.clear()
    again = start(serving_plane.settings)
    again.app.state.reconciler.reconcile()
    assert again.user.get("/v1/models/motion").json()["serving"]["status"] == "ready"
    assert agent.models["motion"]["version"] == "1"


def test_a_model_is_pending_while_the_agent_is_away(plane, export):
    model = plane.user.post("/v1/models", json={"job": export(plane)}).json()
    assert model["serving"]["status"] == "pending"
    assert "CMAEV_SERVING_URL" in model["serving"]["detail"]


def test_a_refused_archive_is_failed_for_good_and_trouble_is_not(serving_plane, agent, export):
    job = export(serving_plane)
    agent.refuse_deploy = {"status": 500, "detail": "out of memory"}
    model = serving_plane.user.post("/v1/models", json={"job": job}).json()
    assert (model["serving"]["status"], model["serving"]["detail"]) == ("pending", "out of memory")
    agent.refuse_deploy = {"status": 422, "detail": "no handler in the archive"}
    serving_plane.app.state.reconciler.reconcile()
    serving = serving_plane.user.get("/v1/models/motion").json()["serving"]
    assert (serving["status"], serving["detail"]) == ("failed", "no handler in the archive")
    puts = agent.puts
    serving_plane.app.state.reconciler.reconcile()
    assert agent.puts == puts


def test_a_deleted_model_is_gone_from_the_agent_and_keeps_its_record(serving_plane, agent, export):
    job = export(serving_plane)
    serving_plane.user.post("/v1/models", json={"job": job})
    assert serving_plane.user.delete("/v1/models/motion").status_code == 204
    assert agent.models == {}
    for method in ("GET", "DELETE"):
        assert serving_plane.user.request(method, "/v1/models/motion").status_code == 404
    assert (
        serving_plane.user.post("/v1/models", json={"job": job}).json()["serving"]["version"] == 2
    )


def test_the_agents_other_models_are_left_alone(serving_plane, agent, export):
    agent.models["someone-elses"] = {
        "name": "someone-elses",
        "version": "1",
        "sha256": "0",
        "status": "ready",
        "detail": "",
    }
    serving_plane.user.post("/v1/models", json={"job": export(serving_plane)})
    assert set(agent.models) == {"motion", "someone-elses"}
