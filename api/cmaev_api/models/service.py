"""Deploying what an export job made, and where a model comes from."""

from pathlib import Path

from sqlalchemy.orm import Session

from cmaev_api.errors import conflict, not_found, unprocessable
from cmaev_api.jobs.repository import JobRepository
from cmaev_api.models.repository import ModelRepository
from cmaev_api.models.schemas import Ancestor, DeployRequest, ModelList, ModelRead, VersionRead
from cmaev_api.runs.repository import EventRepository
from cmaev_api.settings import Settings
from cmaev_api.tables import Job, ModelVersion, utc_now
from cmaev_spec.files import sha256_file
from cmaev_spec.rundir import RunDir
from cmaev_spec.state import JobState

HOW_TO_DEPLOY = "deploy one: POST /v1/models, or `cmaev models deploy JOB_ID`"


class ModelService:
    """Deployed models within one transaction."""

    def __init__(self, session: Session, *, settings: Settings) -> None:
        self._settings = settings
        self._jobs = JobRepository(session)
        self._events = EventRepository(session)
        self._models = ModelRepository(session)

    def register(self, request: DeployRequest) -> ModelVersion:
        """Records that the archive of an export job is to be served, as a new version.

        Raises:
            ProblemError: 422 if the job is no succeeded export, 409 if its archive is not there or
                is not the one that the job made.
        """
        job = self._export_job(request.job)
        archive, sha256 = self._archive(job)
        name = request.name or str(job.spec["model_name"])
        self._models.deactivate(name)
        now = utc_now()
        version = ModelVersion(
            name=name,
            version=self._models.next_version(name),
            job_id=job.id,
            archive=str(archive),
            sha256=sha256,
            active=True,
            status="pending",
            detail="",
            created_at=now,
            updated_at=now,
        )
        self._models.add(version)
        return version

    def page(self) -> ModelList:
        """The versions to serve, by name."""
        return ModelList(
            items=[VersionRead.model_validate(item) for item in self._models.all_active()]
        )

    def read(self, name: str) -> ModelRead:
        """A model with its versions and history.

        Raises:
            ProblemError: 404 if nothing is served under that name.
        """
        serving = self.serving(name)
        return ModelRead(
            name=name,
            serving=VersionRead.model_validate(serving),
            provenance=self._provenance(serving.job_id),
            versions=[VersionRead.model_validate(item) for item in self._models.versions(name)],
        )

    def remove(self, name: str) -> None:
        """Leaves nothing to serve under a name.

        Raises:
            ProblemError: 404 if nothing is served under that name.
        """
        self.serving(name)
        self._models.deactivate(name)

    def serving(self, name: str) -> ModelVersion:
        """The version to serve under a name.

        Raises:
            ProblemError: 404 if there is none; it lists the names that there are.
        """
        version = self._models.active(name)
        if version is None:
            known = ", ".join(item.name for item in self._models.all_active())
            raise not_found(
                f"there is no model {name!r}",
                fix=f"choose one of: {known}" if known else HOW_TO_DEPLOY,
            )
        return version

    def _export_job(self, job_id: str) -> Job:
        job = self._jobs.get(job_id.removeprefix("job:"))
        if job is None:
            raise unprocessable([("job", f"there is no job {job_id!r}")])
        if job.kind != "export":
            raise unprocessable(
                [("job", f"job {job.id} is of kind {job.kind}; only an export can be deployed")],
                fix="submit an export job with this one as its `source`",
            )
        if job.state != JobState.SUCCEEDED:
            raise unprocessable([("job", f"job {job.id} is {job.state}, not succeeded")])
        return job

    def _archive(self, job: Job) -> tuple[Path, str]:
        announced = [item for item in self._events.artifacts(job.id) if item.kind == "archive"]
        if not announced:
            raise conflict(f"job {job.id} announced no archive", field="job")
        event = announced[-1]
        try:
            path = RunDir(self._settings.runs / job.id).resolve(event.path)
        except ValueError as error:
            raise conflict(str(error), field="job") from None
        if not path.is_file():
            raise conflict(
                f"the archive {event.path} of job {job.id} is not there any more",
                field="job",
                fix="retry the export job",
            )
        if sha256_file(path) != event.sha256:
            raise conflict(
                f"the archive {event.path} of job {job.id} is not the one that the job made",
                field="job",
                fix="retry the export job",
            )
        return path, event.sha256

    def _provenance(self, job_id: str) -> list[Ancestor]:
        ancestors = []
        job = self._jobs.get(job_id)
        while job is not None:
            ancestors.append(
                Ancestor(job_id=job.id, kind=job.kind, name=job.name, content_hash=job.content_hash)
            )
            job = self._jobs.get(job.reference_id) if job.reference_id else None
        return ancestors
