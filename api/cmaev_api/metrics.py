"""Prometheus metrics of the control plane."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from cmaev_api.attempts.repository import AttemptRepository
from cmaev_api.db import Database
from cmaev_api.tables import Job
from cmaev_spec.state import JobState


class Metrics:
    """The counters of one app, in a registry of their own."""

    def __init__(self, database: Database) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "cmaev_http_request_seconds",
            "Time to answer a request",
            ["method", "route", "status"],
            buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0),
            registry=self.registry,
        )
        self.lost_leases = Counter(
            "cmaev_lost_leases", "Attempts whose worker was not heard of", registry=self.registry
        )
        self.redispatched = Counter(
            "cmaev_redispatched_attempts",
            "Attempts sent to the workers again",
            registry=self.registry,
        )
        self.sweep_failures = Counter(
            "cmaev_sweep_failures",
            "Rounds of background work that failed",
            ["work"],
            registry=self.registry,
        )
        self.registry.register(JobCollector(database))


class JobCollector(Collector):
    """Counts jobs and attempts in the database when somebody asks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing to say before the first scrape; asking the database here would be too early."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The counts."""
        jobs = GaugeMetricFamily("cmaev_jobs", "Jobs by state and kind", labels=["state", "kind"])
        leased = GaugeMetricFamily("cmaev_leased_attempts", "Attempts that a worker holds")
        with self._database.read() as session:
            query = select(Job.state, Job.kind, func.count()).group_by(Job.state, Job.kind)
            for state, kind, count in session.execute(query):
                jobs.add_metric([JobState(state).value, kind], count)
            leased.add_metric([], AttemptRepository(session).count_leased())
        yield jobs
        yield leased
