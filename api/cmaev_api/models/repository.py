"""Queries on deployed models."""

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from cmaev_api.tables import ModelVersion, utc_now


class ModelRepository:
    """Model versions in one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, version: ModelVersion) -> None:
        """Inserts a version."""
        self._session.add(version)
        self._session.flush()

    def active(self, name: str) -> ModelVersion | None:
        """The version to serve under a name."""
        query = select(ModelVersion).where(ModelVersion.name == name, ModelVersion.active)
        return self._session.scalar(query)

    def all_active(self) -> list[ModelVersion]:
        """Every version to serve, by name."""
        query = select(ModelVersion).where(ModelVersion.active).order_by(ModelVersion.name)
        return list(self._session.scalars(query))

    def versions(self, name: str) -> list[ModelVersion]:
        """Every version that was ever deployed under a name, newest first."""
        query = select(ModelVersion).where(ModelVersion.name == name)
        return list(self._session.scalars(query.order_by(ModelVersion.version.desc())))

    def names(self) -> set[str]:
        """Every name that was ever deployed."""
        return set(self._session.scalars(select(ModelVersion.name).distinct()))

    def next_version(self, name: str) -> int:
        """The number of the next version under a name, from 1."""
        newest = select(func.max(ModelVersion.version)).where(ModelVersion.name == name)
        return (self._session.scalar(newest) or 0) + 1

    def deactivate(self, name: str) -> None:
        """Leaves nothing to serve under a name."""
        self._session.connection().execute(
            update(ModelVersion)
            .where(ModelVersion.name == name, ModelVersion.active)
            .values(active=False, updated_at=utc_now())
        )

    def set_status(self, sequence: int, *, status: str, detail: str) -> None:
        """Records what the serving agent said about a version."""
        self._session.connection().execute(
            update(ModelVersion)
            .where(
                ModelVersion.sequence == sequence,
                (ModelVersion.status != status) | (ModelVersion.detail != detail),
            )
            .values(status=status, detail=detail, updated_at=utc_now())
        )
