"""The tail of the events file: whole lines, exact offsets, nothing twice, nothing lost."""

from pathlib import Path

import httpx
import pytest

from cmaev_spec.events import OutcomeEvent, ProgressEvent
from cmaev_spec.rundir import event_line
from cmaev_spec.worker_protocol import EventBatch
from cmaev_trainer import reporter as module
from cmaev_trainer.client import ControlPlane, LeaseLostError, UnreachableError
from cmaev_trainer.reporter import EventTail, Reporter


def progress(step: int) -> bytes:
    event = ProgressEvent(time=1.0, stage="fake", step=step, total_steps=100)
    return event_line(event).encode()


class Sink:
    """A control plane that keeps what it gets and answers as it is told."""

    def __init__(self) -> None:
        self.status = 200
        self.batches: list[EventBatch] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.status == 200:
            self.batches.append(EventBatch.model_validate_json(request.content))
        return httpx.Response(self.status, json={"events_offset": 0})

    @property
    def offsets(self) -> list[int]:
        return [item.end_offset for batch in self.batches for item in batch.events]


@pytest.fixture
def sink() -> Sink:
    return Sink()


def make_reporter(sink: Sink, path: Path, offset: int = 0) -> Reporter:
    http = httpx.Client(base_url="http://test", transport=httpx.MockTransport(sink))
    control = ControlPlane(http, attempt_id="a")
    return Reporter(control, token=1, tail=EventTail(path, offset=offset))


def test_an_unfinished_line_waits_for_its_end(tmp_path: Path, sink: Sink) -> None:
    path = tmp_path / "events.jsonl"
    reporter = make_reporter(sink, path)
    reporter.flush()
    line = progress(1)
    path.write_bytes(line + line[:10])
    reporter.flush()
    assert sink.offsets == [len(line)]
    with open(path, "ab") as file:
        file.write(line[10:])
    reporter.flush()
    reporter.flush()
    assert sink.offsets == [len(line), 2 * len(line)]


def test_it_goes_on_from_the_offset_of_the_lease(tmp_path: Path, sink: Sink) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(progress(1) + progress(2))
    make_reporter(sink, path, offset=len(progress(1))).flush()
    assert [item.event.step for batch in sink.batches for item in batch.events] == [2]


def test_lines_that_are_no_events_are_skipped(
    tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 400)
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"not json\n\n" + b"x" * 1000 + b"\n" + progress(3))
    make_reporter(sink, path).flush()
    assert sink.offsets == [path.stat().st_size]


def test_batches_are_limited(tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_EVENTS", 4)
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(progress(step) for step in range(10)))
    make_reporter(sink, path).flush()
    assert [len(batch.events) for batch in sink.batches] == [4, 4, 2]
    assert sink.offsets[-1] == path.stat().st_size


def test_an_outage_loses_nothing(tmp_path: Path, sink: Sink) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(progress(1))
    reporter = make_reporter(sink, path)
    sink.status = 503
    with pytest.raises(UnreachableError):
        reporter.flush()
    with open(path, "ab") as file:
        file.write(progress(2))
    sink.status = 200
    reporter.flush()
    assert len(sink.offsets) == 2


def test_a_refused_batch_does_not_hold_back_the_next(tmp_path: Path, sink: Sink) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(progress(1))
    reporter = make_reporter(sink, path)
    sink.status = 422
    reporter.flush()
    sink.status = 200
    with open(path, "ab") as file:
        file.write(progress(2))
    reporter.flush()
    assert sink.offsets == [len(progress(1)) + len(progress(2))]


def test_a_lost_lease_is_told(tmp_path: Path, sink: Sink) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(progress(1))
    sink.status = 409
    with pytest.raises(LeaseLostError):
        make_reporter(sink, path).flush()


def test_the_outcome_of_an_earlier_attempt_is_not_this_ones(tmp_path: Path, sink: Sink) -> None:
    path = tmp_path / "events.jsonl"
    old = OutcomeEvent(time=100.0, status="failed", exit_code=1, error="old")
    path.write_text(event_line(old))
    reporter = make_reporter(sink, path)
    reporter.flush()
    assert reporter.outcome(since=200.0) is None
    new = OutcomeEvent(time=201.0, status="failed", exit_code=64, error="new")
    with open(path, "a") as file:
        file.write(event_line(new))
    reporter.flush()
    assert reporter.outcome(since=200.0) == new
