"""Keeps the serving agent serving what the database says.

The database holds the intent: the active version of each name. The agent may restart empty at any
time. Each round compares the two and offers what is missing, so a deployment, an agent's restart
and a restart of the control plane are one and the same case.
"""

import threading
from collections.abc import Mapping
from pathlib import Path

import structlog

from cmaev_api.db import Database
from cmaev_api.models.agent import AgentRefusalError, AgentUnreachableError, ServingAgent
from cmaev_api.models.repository import ModelRepository
from cmaev_api.tables import ModelVersion
from cmaev_spec.files import sha256_file
from cmaev_spec.serving_protocol import ServedModel

log = structlog.get_logger(__name__)


class Reconciler:
    """One round at a time; several replicas may each run one, since every offer can be repeated."""

    def __init__(self, database: Database, agent: ServingAgent) -> None:
        self._database = database
        self._agent = agent
        self._round = threading.Lock()

    def reconcile(self) -> None:
        """Brings the agent to the state that the database wants; never raises for the agent."""
        with self._round:
            with self._database.read() as session:
                models = ModelRepository(session)
                wanted, names = models.all_active(), models.names()
            if not names:
                return
            try:
                served = {model.name: model for model in self._agent.models()}
                for name in names - {version.name for version in wanted}:
                    if name in served:
                        self._agent.remove(name)
            except (AgentUnreachableError, AgentRefusalError) as error:
                for version in wanted:
                    self._record(version, "pending", str(error))
                return
            for version in wanted:
                self._settle(version, served)

    def _settle(self, version: ModelVersion, served: Mapping[str, ServedModel]) -> None:
        model = served.get(version.name)
        if model is not None and model.version == str(version.version):
            self._record(version, model.status, model.detail)
        elif version.status != "failed":
            self._offer(version)

    def _offer(self, version: ModelVersion) -> None:
        archive = Path(version.archive)
        if not archive.is_file() or sha256_file(archive) != version.sha256:
            self._record(version, "failed", f"{archive} is missing or not what was deployed")
            return
        log.info("model_offered", model=version.name, version=version.version)
        try:
            model = self._agent.deploy(
                version.name, version.version, archive, sha256=version.sha256
            )
        except AgentUnreachableError as error:
            self._record(version, "pending", str(error))
        except AgentRefusalError as error:
            # an agent in trouble (5xx) is asked again; an archive it refuses (4xx) is not
            refused = error.status < 500 and error.status not in {401, 403, 409, 429}
            self._record(version, "failed" if refused else "pending", str(error))
        else:
            self._record(version, model.status, model.detail)

    def _record(self, version: ModelVersion, status: str, detail: str) -> None:
        if (version.status, version.detail) == (status, detail):
            return
        with self._database.write() as session:
            ModelRepository(session).set_status(version.sequence, status=status, detail=detail)
        log.info("model_status", model=version.name, version=version.version, status=status)
