"""The run directory: where one run keeps all it writes.

```
spec.json        the job, canonical JSON; written first, claims the directory
asked.json       a changed job that has still to pass its checks; takes the place of spec.json then
labels.json      label names in order, where the run has labels
events.jsonl     what happened, append-only (cmaev_spec.events)
metrics.jsonl    one object per logged step; cut back to the checkpoint on resume
quarantine.csv   bad videos of the index that it trains on, where there are any
bad_videos.csv   bad videos of the index that it is measured on, where there are any
predictions.csv  what a finished run answered for each video, where it was measured on some
confusion.csv    which classes it took for which
summary.json     the figures of a finished run
log.txt          what the runner printed
checkpoints/step-00000120/{model.safetensors,state/,manifest.json}
pictures/  export/  tensorboard/
```
A checkpoint is complete when its `manifest.json` is there; the manifest is written last.
"""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from cmaev_spec.changes import Change, changes, refuse
from cmaev_spec.events import WarningEvent
from cmaev_spec.files import (
    create_atomic,
    drop_partial_line,
    no_room,
    write_atomic,
)
from cmaev_spec.job import JobSpec, SpecError, parse_job
from cmaev_spec.wire import canonical_json


class RunDir:
    """Paths and claims of one run directory."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    @property
    def spec(self) -> Path:
        """The job specification."""
        return self.path / "spec.json"

    @property
    def asked(self) -> Path:
        """A changed job that has still to pass its checks."""
        return self.path / "asked.json"

    @property
    def labels(self) -> Path:
        """Label names in order."""
        return self.path / "labels.json"

    @property
    def events(self) -> Path:
        """The append-only event log."""
        return self.path / "events.jsonl"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def quarantine(self) -> Path:
        """Bad videos that it trains on, and why they are."""
        return self.path / "quarantine.csv"

    @property
    def bad_test_videos(self) -> Path:
        """Bad videos that it is measured on, and why they are."""
        return self.path / "bad_videos.csv"

    @property
    def predictions(self) -> Path:
        """What a finished run answered for each video that it is measured on."""
        return self.path / "predictions.csv"

    @property
    def confusion(self) -> Path:
        """Which classes a finished run took for which."""
        return self.path / "confusion.csv"

    @property
    def summary(self) -> Path:
        """The figures of a finished run."""
        return self.path / "summary.json"

    @property
    def log(self) -> Path:
        """What the runner printed."""
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        """Folder of pictures for people."""
        return self.path / "pictures"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files, where the job asks for them."""
        return self.path / "tensorboard"

    @property
    def export(self) -> Path:
        """Folder of exported files."""
        return self.path / "export"

    def claim(self, job: JobSpec, *, allow_changes: bool = False) -> None:
        """Creates the directory and writes `spec.json`, or checks that it holds the same job.

        The same job may go on with what has no influence on its result, as other resources;
        `spec.json` tells the latest.

        Args:
            job: what is to run.
            allow_changes: ask for fields that change the result from here on: the next runner
                takes them once it has checked them, see `accept`; nobody may be writing into the
                directory.

        Raises:
            SpecError: if the directory belongs to another run, or holds other files; naming every
                field that differs.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if no_room(error):
                raise
            raise SpecError([("run_dir", f"cannot make {self.path}: {error.strerror}")]) from None
        text = canonical_json(job)
        if not self.spec.exists():
            self._refuse_strangers()
            # Whoever comes second compares below, however close the two were.
            with contextlib.suppress(FileExistsError):
                create_atomic(self.spec, text)
        asked = self._asked_changes(text)
        if asked and (refusal := refuse(asked, self.path, allowed=allow_changes)):
            raise SpecError([("run_dir", refusal)])
        if asked:
            write_atomic(self.asked, text)
            return
        if self.spec.read_text() != text:
            write_atomic(self.spec, text)
        self.withdraw()

    def accept(self, job: JobSpec) -> None:
        """Makes a job that has passed its checks the one of this run.

        An event tells what changed, and what the old job measured at its end goes: the run is not
        at the end of the new one. A run that is killed in between belongs to the old job, and has
        the event again when the new one is asked for again.
        """
        text = canonical_json(job)
        if self.spec.read_text() != text:
            if asked := self._asked_changes(text):
                told = "; ".join(change.told for change in asked)
                self._record(f"goes on with another job: {told}")
                for result in (self.summary, self.predictions, self.confusion):
                    result.unlink(missing_ok=True)
            write_atomic(self.spec, text)
        self.withdraw()

    def withdraw(self) -> None:
        """Forgets a changed job that was asked for; the run belongs to the job that it had."""
        self.asked.unlink(missing_ok=True)

    def _asked_changes(self, text: str) -> list[Change]:
        """Where a job, as canonical JSON, would come to another result than the one of this run."""
        different = changes(self.read_job().model_dump(mode="json"), json.loads(text))
        return [change for change in different if change.terms != "free"]

    def _record(self, message: str) -> None:
        event = WarningEvent(time=time.time(), message=message)
        drop_partial_line(self.events)
        with open(self.events, "a", encoding="utf-8") as file:
            file.write(event_line(event))
            file.flush()
            os.fsync(file.fileno())

    def discard(self) -> None:
        """Empties a directory whose run never got to a checkpoint or a result; spec.json goes last.

        Raises:
            SpecError: if there is something to lose.
        """
        if self.complete_checkpoints() or self.summary.exists():
            raise SpecError([("run_dir", f"{self.path} holds the results of a run")])
        last = (self.spec.name, ".lock")
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in last:
                entry.unlink()
        self.spec.unlink()

    def _refuse_strangers(self) -> None:
        # What a launcher, or a claim that was cut short, may leave before there is a spec.
        ours = (self.log.name, ".lock", self.spec.name)
        partial = f".{self.spec.name}."
        names = [entry.name for entry in self.path.iterdir()]
        strangers = [name for name in names if name not in ours and not name.startswith(partial)]
        # Looked for again: another node may have claimed it and begun to write since.
        if strangers and not self.spec.exists():
            raise SpecError(
                [("run_dir", f"{self.path} is not empty and is no run directory; choose another")]
            )

    def read_job(self) -> JobSpec:
        """The job that this directory belongs to.

        Raises:
            SpecError: if the directory is not there or holds no run.
        """
        if not self.spec.is_file():
            raise SpecError([("run", f"{self.path} is not a run directory: it has no spec.json")])
        return parse_job(json.loads(self.spec.read_text()))

    def next_job(self) -> JobSpec:
        """The job that the next runner tries: the changed one, where one was asked for.

        Raises:
            SpecError: as `read_job`.
        """
        job = self.read_job()
        try:
            return parse_job(json.loads(self.asked.read_text()))
        except FileNotFoundError:
            return job

    def read_labels(self) -> tuple[str, ...]:
        """Label names in order; empty where the run has none."""
        if not self.labels.is_file():
            return ()
        return tuple(json.loads(self.labels.read_text()))

    def checkpoint_folders(self) -> list[Path]:
        """Checkpoints, complete or not, oldest first; not what people put beside them."""
        named = sorted(self.checkpoints.glob("step-*"))
        return [
            path for path in named if path.name.removeprefix("step-").isdecimal() and path.is_dir()
        ]

    def complete_checkpoints(self) -> list[Path]:
        """Checkpoints that have a manifest, oldest first; their hashes are not checked here."""
        return [path for path in self.checkpoint_folders() if (path / "manifest.json").exists()]

    def resolve(self, relative: str) -> Path:
        """A file of this run, by its path relative to the directory.

        Raises:
            ValueError: if the path leads out of the directory.
        """
        target = (self.path / relative).resolve()
        if not target.is_relative_to(self.path.resolve()):
            raise ValueError(f"{relative!r} leads out of the run directory")
        return target


def resolve_run(reference: str, *, runs_dir: str | Path | None = None) -> RunDir:
    """The run directory that `job:<id>` or a path stands for.

    Args:
        reference: `job:<id>`, looked up in `runs_dir` or CMAEV_RUNS_DIR, or a path.
        runs_dir: folder that holds one run directory per job id.

    Raises:
        SpecError: if the reference needs a runs folder and there is none, or is malformed.
    """
    if not reference.startswith("job:"):
        return RunDir(reference)
    identifier = reference.removeprefix("job:")
    folder = runs_dir or os.environ.get("CMAEV_RUNS_DIR")
    if not folder:
        raise SpecError([("run", f"{reference} needs CMAEV_RUNS_DIR, the folder of the job runs")])
    if not identifier.replace("-", "").isalnum():
        raise SpecError([("run", f"{reference} is not a job id")])
    return RunDir(Path(folder) / identifier)


def event_line(event: Any) -> str:
    """One line of `events.jsonl`."""
    return str(event.model_dump_json()) + "\n"
