"""Queries on the events of a run."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from cmaev_api.tables import Event
from cmaev_spec.events import ArtifactEvent


class EventRepository:
    """Events in one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def page(self, job_id: str, *, after: int, limit: int) -> list[Event]:
        """Events whose line ends after the offset `after`, in order."""
        query = (
            select(Event)
            .where(Event.job_id == job_id, Event.end_offset > after)
            .order_by(Event.end_offset)
            .limit(limit)
        )
        return list(self._session.scalars(query))

    def artifacts(self, job_id: str) -> list[ArtifactEvent]:
        """The newest announcement of each file, in the order of the files' first one."""
        query = (
            select(Event.data)
            .where(Event.job_id == job_id, Event.type == "artifact")
            .order_by(Event.end_offset)
        )
        newest: dict[str, ArtifactEvent] = {}
        for data in self._session.scalars(query):
            event = ArtifactEvent.model_validate(data)
            newest[event.path] = event
        return list(newest.values())
