"""`:classify`: videos in, answers out, and every way it can go wrong."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.responses import JSONResponse

URL = "/v1/models/motion:classify"
VIDEO = b"not really a video, but the agent of these tests does not mind" * 10_000


@pytest.fixture
def deployed(serving_plane, export):
    serving_plane.user.post("/v1/models", json={"job": export(serving_plane)})
    return serving_plane


@pytest.mark.parametrize("form", [False, True])
def test_a_video_reaches_the_agent_whole_and_the_answer_comes_back(deployed, agent, form):
    if form:
        response = deployed.user.post(URL, files={"file": ("clip.mp4", VIDEO, "video/mp4")})
    else:
        response = deployed.user.post(URL, content=VIDEO, headers={"Content-Type": "video/mp4"})
    assert response.status_code == 200, response.text
    assert response.json()["predictions"][0]["label"] == "left"
    assert agent.uploads == [VIDEO]


def test_an_unknown_model_lists_the_known_ones(deployed, agent):
    response = deployed.user.post("/v1/models/montion:classify", content=VIDEO)
    assert response.status_code == 404
    assert "motion" in response.json()["fix"]
    assert agent.uploads == []


@pytest.mark.parametrize(
    ("request_options", "status", "field"),
    [
        ({"content": b""}, 422, "file"),
        ({"files": {"file": ("a.mp4", b"")}}, 422, "file"),
        ({"files": {"video": ("a.mp4", b"x")}}, 422, "file"),
        ({"data": {"file": "text"}, "files": {"x": b""}}, 422, "file"),
        ({"json": {"video": "x"}}, 415, "Content-Type"),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "Content-Type"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "file"),
        ({"content": b"x", "params": {"top_k": 0}}, 422, "top_k"),
        ({"content": b"x", "params": {"top_k": 101}}, 422, "top_k"),
    ],
)
def test_a_wrong_request_names_the_field(deployed, agent, request_options, status, field):
    response = deployed.user.post(URL, **request_options)
    assert (response.status_code, response.json()["field"]) == (status, field)
    assert agent.uploads == []


@pytest.fixture
def narrow(start, deployed):
    """A control plane that takes little, and one at a time."""
    update = {"max_upload_bytes": 1000, "max_inferences": 1}
    return start(deployed.settings.model_copy(update=update))


def test_a_body_that_is_too_large_is_refused_announced_or_not(narrow, agent):
    def chunks():
        for _ in range(20):
            yield b"x" * 100

    form = {"file": ("clip.mp4", b"x" * 2000)}
    for options in ({"content": b"x" * 1001}, {"content": chunks()}, {"files": form}):
        response = narrow.user.post(URL, **options)
        assert response.status_code == 413
        assert "CMAEV_MAX_UPLOAD_BYTES" in response.json()["fix"]
    assert agent.uploads == []
    assert narrow.user.post(URL, content=b"x" * 1000).status_code == 200


def test_other_bodies_have_a_limit_too(start, settings, specs):
    plane = start(settings.model_copy(update={"max_body_bytes": 2048}))
    response = plane.user.post("/v1/jobs", json=specs(name="x" * 5000))
    assert (response.status_code, response.json()["field"]) == (413, "body")

    def chunks():
        yield from [b'{"kind": "' + b"x" * 1000] * 3

    response = plane.user.post(
        "/v1/jobs", content=chunks(), headers={"Content-Type": "application/json"}
    )
    assert (response.status_code, response.json()["field"]) == (413, "body")


def test_what_the_agent_says_about_a_video_is_passed_on(deployed, agent):
    problem = {
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "this is no video: no stream found",
        "field": "file",
        "fix": "send an mp4",
    }
    agent.answer_classify = lambda _video, _k: JSONResponse(problem, 422)
    response = deployed.user.post(URL, content=b"plain text")
    assert response.status_code == 422
    assert {key: response.json()[key] for key in ("detail", "field", "fix")} == {
        key: problem[key] for key in ("detail", "field", "fix")
    }


def test_an_agent_that_is_away_or_has_no_model_means_try_again(deployed, agent, start):
    agent.models.clear()
    response = deployed.user.post(URL, content=VIDEO)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    agent.token = "changed"
    assert deployed.user.post(URL, content=VIDEO).status_code == 503
    away = start(deployed.settings.model_copy(update={"serving_url": "http://127.0.0.1:9"}))
    response = away.user.post(URL, content=VIDEO)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")


@pytest.fixture
def release(agent):
    """The agent answers once this is set, and at the end of the test."""
    release = threading.Event()

    def answer(_video, _k):
        release.wait()
        return JSONResponse({})

    agent.answer_classify = answer
    yield release
    release.set()


def test_a_full_house_says_so(narrow, agent, release):
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(narrow.user.post, URL, content=b"x")
        while not agent.uploads and not first.done():
            time.sleep(0.01)
        second = narrow.user.post(URL, content=b"x")
        healthy = narrow.user.get("/healthz")
        release.set()
        assert (second.status_code, second.headers["Retry-After"]) == (503, "1")
        assert healthy.status_code == 200
        assert first.result().status_code == 200
    assert narrow.user.post(URL, content=b"x").status_code == 200


def test_a_slow_answer_ends_and_makes_room(start, deployed, release):
    update = {"max_inferences": 1, "inference_seconds": 0.5}
    hasty = start(deployed.settings.model_copy(update=update))
    for _ in range(2):
        assert hasty.user.post(URL, content=b"x").status_code == 504
