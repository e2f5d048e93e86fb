"""What endpoints ask for: settings, transactions and the parts that live as long as the app."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from cmaev_api.db import Database
from cmaev_api.dispatch import Dispatcher
from cmaev_api.models.agent import ServingAgent
from cmaev_api.models.reconciler import Reconciler
from cmaev_api.settings import Settings


def get_settings(request: Request) -> Settings:
    """The settings the app was made with."""
    settings: Settings = request.app.state.settings
    return settings


def get_database(request: Request) -> Database:
    """The database."""
    database: Database = request.app.state.database
    return database


def get_dispatcher(request: Request) -> Dispatcher:
    """The Celery client."""
    dispatcher: Dispatcher = request.app.state.dispatcher
    return dispatcher


def get_agent(request: Request) -> ServingAgent:
    """The client of the serving agent."""
    agent: ServingAgent = request.app.state.agent
    return agent


def get_reconciler(request: Request) -> Reconciler:
    """What keeps the agent serving the active models."""
    reconciler: Reconciler = request.app.state.reconciler
    return reconciler


def read_session(request: Request) -> Iterator[Session]:
    """A session for looking."""
    with get_database(request).read() as session:
        yield session


def write_session(request: Request) -> Iterator[Session]:
    """A session whose transaction is committed before the answer is sent."""
    with get_database(request).write() as session:
        yield session


SettingsDep = Annotated[Settings, Depends(get_settings)]
DatabaseDep = Annotated[Database, Depends(get_database)]
DispatcherDep = Annotated[Dispatcher, Depends(get_dispatcher)]
AgentDep = Annotated[ServingAgent, Depends(get_agent)]
ReconcilerDep = Annotated[Reconciler, Depends(get_reconciler)]
ReadSession = Annotated[Session, Depends(read_session, scope="function")]
WriteSession = Annotated[Session, Depends(write_session, scope="function")]
