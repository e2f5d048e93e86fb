"""Keys: who gets in, who does not, and what stays secret."""

import re
import stat

import pytest

from cmaev_api.keys import create_key, find_key, list_keys, revoke_key
from cmaev_api.settings import Settings
from cmaev_spec.exits import BadInput

OPEN = {
    "/healthz",
    "/readyz",
    "/metrics",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    "/openapi.json",
}


@pytest.mark.parametrize(
    "header",
    [None, "Bearer wrong", "Bearer ", "Basic YTpi", "Bearer " + "x" * 5000, "Bearer ümlaut"],
)
def test_without_a_right_key_nothing_is_told(plane, header):
    headers = {} if header is None else {"Authorization": header.encode()}
    plane.user.headers.pop("Authorization")
    response = plane.user.get("/v1/jobs", headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert response.json()["field"] == "Authorization"


def test_every_route_but_the_probes_asks_for_a_key(plane):
    plane.user.headers.pop("Authorization")
    checked = 0
    for path, methods in plane.user.get("/openapi.json").json()["paths"].items():
        for method in methods:
            url = re.sub(r"{\w+}", "x", path)
            status = plane.user.request(method, url).status_code
            assert (status == 401) == (path not in OPEN), f"{method} {path}: {status}"
            checked += 1
    assert checked > 20


def test_a_scope_opens_only_its_own_doors(plane):
    assert plane.worker.get("/v1/jobs").status_code == 403
    refused = plane.user.post("/v1/attempts/x:heartbeat", json={"token": 1})
    assert refused.status_code == 403
    assert "--scope worker" in refused.json()["fix"]


def test_a_revoked_key_is_refused_at_once(plane):
    with plane.app.state.database.write() as session:
        secret = create_key(session, name="guest", scopes=["admin"])
    headers = {"Authorization": f"Bearer {secret}"}
    assert plane.user.get("/v1/jobs", headers=headers).status_code == 200
    with plane.app.state.database.write() as session:
        key = find_key(session, secret)
        assert secret not in str(vars(key))
        revoke_key(session, key.id)
        with pytest.raises(BadInput, match="no key 'nope'"):
            revoke_key(session, "nope")
    assert plane.user.get("/v1/jobs", headers=headers).status_code == 401


def test_the_first_start_makes_keys_once_for_their_owner_only(start, settings):
    first = settings.model_copy(update={"admin_key": None, "worker_key": None})
    plane = start(first)
    for name, path in (("api-key", "/v1/jobs"), ("worker-key", "/v1/attempts/x:heartbeat")):
        file = settings.state_dir / name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        headers = {"Authorization": f"Bearer {file.read_text()}"}
        method = "GET" if name == "api-key" else "POST"
        status = plane.user.request(method, path, headers=headers, json={"token": 1}).status_code
        assert status in {200, 404}
    before = (settings.state_dir / "api-key").read_text()
    again = start(first)
    assert (settings.state_dir / "api-key").read_text() == before
    with again.app.state.database.read() as session:
        assert len(list_keys(session)) == 2


def test_the_settings_keys_are_long_and_never_shown():
    with pytest.raises(ValueError, match="at least 32"):
        Settings(admin_key="short")
    url = "postgresql://user:secret-secret@host/db"
    settings = Settings(
        admin_key="secret-" * 8, database_url=url, redis_url="redis://:secret-secret@host"
    )
    assert "secret-secret" not in repr(settings)
