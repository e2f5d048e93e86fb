"""Where the client finds the control plane, and what it asks there."""

import json

import httpx
import pytest

from cmaev_api.client import ApiError, Client
from cmaev_api.environment import DEFAULT_URL
from cmaev_spec.exits import BadInput


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The state folder of a local stack, which the environment names."""
    for name in ("CMAEV_URL", "CMAEV_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CMAEV_STATE_DIR", str(tmp_path))
    (tmp_path / "api-key").write_text("from-the-file\n")
    return tmp_path


@pytest.fixture
def asked():
    """A client, and the paths of its requests as they are sent; every answer is 404."""
    paths = []

    def answer(request):
        paths.append(request.url.raw_path.decode())
        return httpx.Response(404, json={"title": "Not Found", "status": 404, "detail": "none"})

    client = Client("http://test", "key")
    client._http = httpx.Client(base_url="http://test", transport=httpx.MockTransport(answer))
    with client:
        yield client, paths


def test_the_address_is_the_variable_then_the_stack_then_the_default(state, monkeypatch):
    def url():
        with Client.from_environment() as client:
            return client.url

    assert url() == DEFAULT_URL
    (state / "stack.json").write_text(json.dumps({"api": "http://127.0.0.1:4711"}))
    assert url() == "http://127.0.0.1:4711"
    monkeypatch.setenv("CMAEV_URL", "http://elsewhere:80/")
    assert url() == "http://elsewhere:80"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"api": 3}', b"\xff"])
def test_a_stack_file_that_tells_no_address_is_passed_over(state, content):
    (state / "stack.json").write_bytes(content)
    with Client.from_environment() as client:
        assert client.url == DEFAULT_URL


@pytest.mark.parametrize("key", ["schlüssel", "two words", "line\nbreak"])
def test_a_key_that_no_request_can_carry_is_bad_input(state, key, monkeypatch):
    (state / "api-key").write_text(key)
    with pytest.raises(BadInput, match="api-key: must be ASCII"):
        Client.from_environment()
    monkeypatch.setenv("CMAEV_API_KEY", key)
    with pytest.raises(BadInput, match="CMAEV_API_KEY: must be ASCII"):
        Client.from_environment()


def test_an_address_that_is_none_is_bad_input(state, monkeypatch):
    monkeypatch.setenv("CMAEV_URL", "http://host:port")
    with pytest.raises(BadInput, match="CMAEV_URL"):
        Client.from_environment()


def test_a_refused_key_is_told_with_the_address(plane, serve):
    server = serve(plane.app)
    with Client(server.url, "wrong") as client, pytest.raises(ApiError) as caught:
        client.jobs()
    assert str(caught.value).startswith(f"{server.url}: the API key is wrong")


def test_names_stay_one_part_of_the_path(asked, tmp_path):
    client, paths = asked
    for ask in (
        lambda: client.job("a/b?c#d:cancel"),
        lambda: client.cancel("a/../b"),
        lambda: client.model("naïve model"),
        lambda: client.fetch("a b", "export/50%/x?.png", tmp_path / "x"),
    ):
        with pytest.raises(ApiError):
            ask()
    assert paths == [
        "/v1/jobs/a%2Fb%3Fc%23d%3Acancel",
        "/v1/jobs/a%2F..%2Fb:cancel",
        "/v1/models/na%C3%AFve%20model",
        "/v1/jobs/a%20b/artifacts/export/50%25/x%3F.png",
    ]
    for name in ("", ".", ".."):
        with pytest.raises(BadInput):
            client.delete_model(name)
    with pytest.raises(BadInput):
        client.fetch("a", "../other/log.txt", tmp_path / "x")
    assert len(paths) == 4
    assert list(tmp_path.iterdir()) == []
