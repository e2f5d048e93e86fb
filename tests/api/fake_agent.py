"""A serving agent for the control plane's tests: the protocol over HTTP, no models."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response


@dataclass
class FakeAgent:
    """A serving agent that speaks the protocol but loads nothing."""

    url: str = ""
    token: str = "agent-token"
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: list[bytes] = field(default_factory=list)
    refuse_deploy: dict[str, Any] | None = None
    answer_classify: Callable[[bytes, int], Response] | None = None
    puts: int = 0


def build_app(agent: FakeAgent) -> FastAPI:
    app = FastAPI()

    def problem(status: int, detail: str, **more: Any) -> Response:
        body = {"title": "Problem", "status": status, "detail": detail, **more}
        return Response(json.dumps(body), status, media_type="application/problem+json")

    @app.middleware("http")
    async def authorize(request: Request, call_next: Any) -> Response:
        if request.headers.get("authorization") != f"Bearer {agent.token}":
            return problem(401, "wrong token")
        return await call_next(request)

    @app.get("/readyz")
    def readyz() -> dict[str, Any]:
        return {"backend": "inprocess", "ready": True, "detail": "fake"}

    @app.get("/models")
    def models() -> list[dict[str, Any]]:
        return list(agent.models.values())

    @app.put("/models/{name}/versions/{version}")
    async def put(name: str, version: str, request: Request) -> Any:
        agent.puts += 1
        body = await request.body()
        if agent.refuse_deploy is not None:
            return problem(**agent.refuse_deploy)
        sha256 = hashlib.sha256(body).hexdigest()
        assert request.headers["x-content-sha256"] == sha256
        agent.models[name] = {
            "name": name,
            "version": version,
            "sha256": sha256,
            "status": "ready",
            "detail": "",
        }
        return agent.models[name]

    @app.delete("/models/{name}", status_code=204)
    def delete(name: str) -> None:
        agent.models.pop(name, None)

    @app.post("/models/{name}:classify")
    async def classify(name: str, request: Request, top_k: int) -> Any:
        video = await request.body()
        agent.uploads.append(video)
        if name not in agent.models:
            return problem(404, f"there is no model {name}")
        if agent.answer_classify is not None:
            return await _in_thread(agent.answer_classify, video, top_k)
        return {
            "model": name,
            "version": agent.models[name]["version"],
            "predictions": [{"label": "left", "index": 0, "probability": 0.9}],
            "views": [{"frames": [0, 2], "seconds": [0.0, 0.1]}],
            "video": {"frames": 8},
            "milliseconds": {"decode": 1.0},
        }

    return app


async def _in_thread(work: Callable[..., Response], *arguments: Any) -> Response:
    return await asyncio.to_thread(work, *arguments)
