"""Answers of the control plane are sorted into: do it, leave it, try again."""

import httpx
import pytest

from cmaev_trainer.client import ControlPlane, LeaseLostError, RefusedError, UnreachableError


def control_answering(handler) -> ControlPlane:
    http = httpx.Client(base_url="http://test", transport=httpx.MockTransport(handler))
    return ControlPlane(http, attempt_id="a1")


def test_paths_and_bodies_are_those_of_the_protocol() -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path, request.content))
        return httpx.Response(200, json={"desired": "pause"})

    assert control_answering(answer).heartbeat(7).desired == "pause"
    assert seen == [("POST", "/v1/attempts/a1:heartbeat", b'{"token":7}')]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (409, LeaseLostError),
        (404, RefusedError),
        (422, RefusedError),
        (401, UnreachableError),
        (429, UnreachableError),
        (500, UnreachableError),
        (503, UnreachableError),
        (307, UnreachableError),
    ],
)
def test_status_codes(status: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=str(status)):
        control_answering(lambda request: httpx.Response(status, text="why")).heartbeat(1)


def test_no_answer_or_a_strange_one_is_tried_again() -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(UnreachableError, match="refused"):
        control_answering(fail).heartbeat(1)
    with pytest.raises(UnreachableError, match="not an answer"):
        control_answering(lambda request: httpx.Response(200, text="<html>")).heartbeat(1)
