"""The agent's HTTP face; cmaev_spec.serving_protocol is its contract."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.security.utils import get_authorization_scheme_param

from cmaev_serving.agent_settings import AgentSettings
from cmaev_serving.archive import verify_archive
from cmaev_serving.deployment import NAME_PATTERN, VERSION_PATTERN, Deployment
from cmaev_serving.metadata import ModelError
from cmaev_serving.problems import ServingError, bad_request, unavailable
from cmaev_serving.requests import MAX_TOP_K
from cmaev_serving.service import AgentService
from cmaev_serving.store import ModelStore
from cmaev_serving.upload import received
from cmaev_spec.files import sha256_file
from cmaev_spec.serving_protocol import AgentStatus, Classification, ServedModel

Name = Annotated[str, Path(pattern=NAME_PATTERN)]
Version = Annotated[str, Path(pattern=VERSION_PATTERN)]
Sha256 = Annotated[str, Header(alias="X-Content-SHA256", pattern=r"^[0-9a-f]{64}$")]
TopK = Annotated[int, Query(ge=1, le=MAX_TOP_K)]


def build_router(settings: AgentSettings, service: AgentService, store: ModelStore) -> APIRouter:
    """The routes of one agent."""
    open_router = APIRouter()
    router = APIRouter(dependencies=[Depends(_authorise(settings.read_token()))])
    slots = asyncio.Semaphore(settings.max_queue)

    @open_router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz(response: Response) -> AgentStatus:
        obstacle = service.obstacle
        response.status_code = 200 if obstacle is None else 503
        return AgentStatus(backend=settings.backend, ready=obstacle is None, detail=obstacle or "")

    @router.get("/models")
    async def models() -> list[ServedModel]:
        return await service.models()

    @router.put("/models/{name}/versions/{version}")
    async def deploy(name: Name, version: Version, sha256: Sha256, request: Request) -> ServedModel:
        async with received(
            request,
            store.spool,
            max_bytes=settings.max_archive_bytes,
            seconds=settings.upload_seconds,
        ) as file:
            if await asyncio.to_thread(sha256_file, file) != sha256:
                raise bad_request(
                    "the body does not have the hash that X-Content-SHA256 announces",
                    field="X-Content-SHA256",
                    fix="send the archive again, with the SHA-256 of its bytes",
                )
            try:
                await asyncio.to_thread(verify_archive, file, max_bytes=settings.max_archive_bytes)
            except ModelError as error:
                raise _refused(error) from None
            deployment = Deployment(name=name, version=version, sha256=sha256)
            return await service.deploy(deployment, file)

    @router.delete("/models/{name}", status_code=204)
    async def remove(name: Name) -> None:
        await service.remove(name)

    @router.post("/models/{name}:classify")
    async def classify(name: Name, request: Request, top_k: TopK = 5) -> Classification:
        service.require(name)
        if slots.locked():
            raise unavailable(f"{settings.max_queue} videos are being classified already")
        async with (
            slots,
            received(
                request,
                store.spool,
                max_bytes=settings.max_upload_bytes,
                seconds=settings.upload_seconds,
            ) as video,
        ):
            return await service.classify(name, video, top_k=top_k)

    open_router.include_router(router)
    return open_router


def _authorise(token: str) -> Callable[[str], Awaitable[None]]:
    expected = token.encode()

    async def check(authorization: Annotated[str, Header()] = "") -> None:
        scheme, given = get_authorization_scheme_param(authorization)
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), expected):
            raise ServingError(
                401,
                "the bearer token is missing or wrong",
                title="Not authorised",
                field="Authorization",
                fix="send `Authorization: Bearer <the agent's token>`",
            )

    return check


def _refused(error: ModelError) -> ServingError:
    return ServingError(
        422,
        str(error),
        title="The archive is refused",
        field="body",
        fix="send the .mar that an export job of cmaev wrote",
    )
