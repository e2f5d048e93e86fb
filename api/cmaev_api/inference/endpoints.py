"""`/v1/models/{name}:classify`."""

from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request, Response

from cmaev_api.auth import require_admin
from cmaev_api.db import Database
from cmaev_api.deps import DatabaseDep, SettingsDep
from cmaev_api.errors import PROBLEM_RESPONSES
from cmaev_api.inference.service import InferenceService
from cmaev_api.inference.upload import receive_video
from cmaev_api.models.service import ModelService
from cmaev_api.settings import Settings
from cmaev_spec.serving_protocol import Classification

router = APIRouter(
    prefix="/v1/models",
    tags=["inference"],
    dependencies=[require_admin],
    responses=PROBLEM_RESPONSES,
)
BINARY = {"type": "string", "format": "binary"}
VIDEO_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "a video: the body itself, or the field `file` of a form",
        "content": {
            "video/mp4": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": BINARY}}
            },
        },
    }
}


@router.post("/{name}:classify", response_model=Classification, openapi_extra=VIDEO_BODY)
async def classify(
    name: str,
    request: Request,
    database: DatabaseDep,
    settings: SettingsDep,
    top_k: Annotated[
        int, Query(ge=1, le=100, description="labels to tell, most probable first")
    ] = 5,
) -> Response:
    """Tell what happens in a video."""
    service: InferenceService = request.app.state.inference
    await run_sync(_require_model, database, settings, name)
    async with service.slot(), receive_video(request) as video:
        answer = await service.classify(name, video, top_k=top_k)
    return Response(answer, media_type="application/json")


def _require_model(database: Database, settings: Settings, name: str) -> None:
    with database.read() as session:
        ModelService(session, settings=settings).serving(name)
