"""`/v1/models`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response, status

from cmaev_api.auth import require_admin
from cmaev_api.deps import DatabaseDep, ReadSession, ReconcilerDep, SettingsDep
from cmaev_api.errors import PROBLEM_RESPONSES
from cmaev_api.models.schemas import DeployRequest, ModelList, ModelRead
from cmaev_api.models.service import ModelService

router = APIRouter(
    prefix="/v1/models", tags=["models"], dependencies=[require_admin], responses=PROBLEM_RESPONSES
)


def reading_service(session: ReadSession, settings: SettingsDep) -> ModelService:
    """Models to look at."""
    return ModelService(session, settings=settings)


Reading = Annotated[ModelService, Depends(reading_service)]


@router.get("")
def list_models(service: Reading) -> ModelList:
    """List the models that are served."""
    return service.page()


@router.post("", status_code=status.HTTP_201_CREATED)
def deploy_model(
    body: DeployRequest,
    database: DatabaseDep,
    settings: SettingsDep,
    reconciler: ReconcilerDep,
    response: Response,
) -> ModelRead:
    """Deploy the archive of an export job as the new version of a model.

    The answer tells the status that it reached: `ready`, `failed` with the reason, or `pending`
    while the serving agent cannot be reached; it is then offered again until it can.
    """
    # committed before the agent hears of it: a crash in between leaves work for the reconciler
    with database.write() as session:
        name = ModelService(session, settings=settings).register(body).name
    reconciler.reconcile()
    response.headers["Location"] = f"/v1/models/{name}"
    with database.read() as session:
        return ModelService(session, settings=settings).read(name)


@router.get("/{name}")
def read_model(name: str, service: Reading) -> ModelRead:
    """Look at a model, its versions and where it comes from."""
    return service.read(name)


@router.delete("/{name}", status_code=status.HTTP_204_NO_CONTENT)
def delete_model(
    name: str, database: DatabaseDep, settings: SettingsDep, reconciler: ReconcilerDep
) -> None:
    """Stop serving a model; its versions stay on record."""
    with database.write() as session:
        ModelService(session, settings=settings).remove(name)
    reconciler.reconcile()
