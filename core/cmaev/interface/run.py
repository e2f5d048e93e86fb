"""A run as an object: what it left, what its model says of videos, and jobs that start from it."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from cmaev.interface.process import run_to_end
from cmaev.interface.start import Out, build_job, out_folder, read_preset, run_job
from cmaev.interface.videos import (
    IndexFile,
    Labels,
    Location,
    Videos,
    index_file,
    index_pair,
    list_videos,
    location,
)
from cmaev_spec.exits import BadInput
from cmaev_spec.job import EvaluateJob, FinetuneJob, JobSpec, PretrainJob, Which
from cmaev_spec.overrides import EvaluateOverrides, ProbeOverrides
from cmaev_spec.rundir import RunDir
from cmaev_spec.serving_protocol import Prediction
from cmaev_spec.wire import content_hash

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cmaev.checkpoints import LoadedClassifier
    from cmaev.models import CMAEV, VideoClassifier

_SHOWN: Final = ("loss", "top1", "knn_top1", "linear_top1", "attentive_top1")
"""Figures that tell most, for people."""


class Run:
    """The folder of a run that `pretrain`, `finetune`, `cmaev train` or a worker wrote."""

    def __init__(self, path: Location) -> None:
        """Opens a run.

        Raises:
            BadInput: if the folder holds none.
        """
        self._folder = RunDir(location(path, name="path"))
        self._folder.read_job()
        self._classifiers: dict[Which, LoadedClassifier] = {}

    def __repr__(self) -> str:
        figures = [f"{name}={self.figures[name]:.4g}" for name in _SHOWN if name in self.figures]
        state = "finished" if self.finished else "not finished"
        return f"<{self.job.kind} run {self.path}, {', '.join([state, *figures])}>"

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def job(self) -> JobSpec:
        """The whole specification, presets and overrides applied."""
        return self._folder.read_job()

    @property
    def finished(self) -> bool:
        """Whether it has come to its end."""
        return self._folder.summary.is_file()

    @property
    def figures(self) -> dict[str, float]:
        """What it measured at its end, e.g. `top1`; empty before."""
        return dict(json.loads(self._folder.summary.read_text())) if self.finished else {}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Rows of `metrics.jsonl`: step, epoch, and learning rate and losses or `val_…` figures."""
        from cmaev.engine.events import read_metrics

        return read_metrics(self._folder.metrics)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in order; empty where it has none."""
        return self._folder.read_labels()

    def resume(self, *, progress: bool = True) -> Self:
        """Goes on from the newest checkpoint to the end; raises as `pretrain` does."""
        self._classifiers.clear()
        run_to_end(self._folder, progress=progress)
        return self

    def model(self, *, checkpoint: Which = "newest") -> "CMAEV | VideoClassifier":
        """The model with the weights of a checkpoint, in eval mode, on the CPU.

        Args:
            checkpoint: the newest, or the best of those that a finetune run measured.

        Raises:
            BadInput: if it is no pretrain or finetune run, or has no such checkpoint.
        """
        from cmaev.checkpoints.runs import load_classifier, load_run_model

        which = self._checked({"checkpoint": checkpoint}).checkpoint
        if which == "best":
            return load_classifier(self._folder, which=which).model
        return load_run_model(self._folder)

    def classify(
        self,
        video: Location,
        *,
        top_k: int = 5,
        num_clips: int = 1,
        num_crops: int = 1,
        checkpoint: Which = "newest",
    ) -> tuple[Prediction, ...]:
        """The most probable labels of a video, by the mean probabilities of its views.

        Args:
            video: path or URL.
            top_k: labels to return at most.
            num_clips: views in time.
            num_crops: views along the longer side.
            checkpoint: the newest when first asked for, or the best that was measured.

        Raises:
            BadInput: naming the argument that cannot be used, or if it is no finetune run, has no
                such checkpoint, or the video cannot be read.
        """
        from cmaev.checkpoints import load_classifier
        from cmaev.interface.answers import classify

        path = location(video, name="video")
        if not isinstance(top_k, int) or top_k < 1:
            raise BadInput(f"top_k: {top_k!r} is no number from 1 on")
        words = {"num_clips": num_clips, "num_crops": num_crops, "checkpoint": checkpoint}
        job = self._checked(words)
        which = job.checkpoint
        if which not in self._classifiers:
            self._classifiers[which] = load_classifier(self._folder, which=which)
        return classify(
            self._classifiers[which],
            list_videos([path], names=("video", "label")),
            top_k=top_k,
            num_clips=job.data.num_clips,
            num_crops=job.data.num_crops,
        )

    def features(
        self,
        videos: Videos,
        *,
        batch_size: int = 16,
        checkpoint: Which = "newest",
        progress: bool = True,
    ) -> "NDArray[np.float32]":
        """One vector per video, (n, D): the mean token of its central clip.

        Tokens of a pretrained encoder have passed its final norm; those of a classifier are
        normalised after their mean, as its head sees them.

        Args:
            videos: paths or URLs of videos, or the place of an index.
            batch_size: videos encoded at once.
            checkpoint: the newest, or the best of those that a finetune run measured.
            progress: show how far it is.

        Raises:
            BadInput: naming the argument that cannot be used, or if the run has no encoder or no
                such checkpoint, or a video cannot be read.
        """
        from cmaev.interface.answers import features

        job = self.job
        if not isinstance(job, PretrainJob | FinetuneJob):
            raise BadInput(f"{self.path.name} is a {job.kind} run, which has no encoder")
        asked = self._checked({"batch_size": batch_size, "checkpoint": checkpoint})
        index = list_videos(videos)
        return features(
            self.model(checkpoint=asked.checkpoint),
            index,
            job.data.clip,
            batch_size=asked.data.batch_size,
            progress=progress,
        )

    def evaluate(
        self,
        videos: Videos,
        labels: Labels | None = None,
        *,
        out: Out | None = None,
        preset: str | None = None,
        progress: bool = True,
        **overrides: Unpack[EvaluateOverrides],
    ) -> "Run":
        """Measures a classifier: top-1, top-5, macro-recall, confusions, predictions per video.

        Args:
            videos: paths or URLs of videos, or the place of an index in any form.
            labels: a label for each video of a list; an index holds its own.
            out: folder of the evaluation, a run of its own; None: below this run's.
            preset: `evaluate` or `evaluate-ssv2`, the published views; None: one central view.
            progress: show what it prints; False: append it to its `log.txt`.
            **overrides: fields of the job by their last names, e.g. `num_clips=5, num_crops=3`.

        Raises:
            BadInput: naming the argument or the videos that cannot be used.
            TypeError: for an override that there is not.
        """
        data = {"kind": "evaluate"} if preset is None else read_preset(preset, kind="evaluate")
        folder = self.path if out is None else out_folder(out)
        index = index_file(
            videos, labels, folder=folder / "index", stem="test", label_names=self.labels or None
        )
        sections = {"source": str(self.path), "data": {"index": index.path}}
        job = build_job(data, sections, {**overrides})
        return self._measured(job, out=out, indexes=(index,), progress=progress)

    def probe(
        self,
        videos: Videos,
        labels: Labels | None = None,
        *,
        val_videos: Videos | None = None,
        val_labels: Labels | None = None,
        val_share: float = 0.2,
        out: Out | None = None,
        progress: bool = True,
        **overrides: Unpack[ProbeOverrides],
    ) -> "Run":
        """What the frozen features tell: neighbours, logistic regression, attentive pooling.

        Args:
            videos: paths or URLs of videos, or the place of an index in any form.
            labels: a label for each video of a list; an index holds its own.
            val_videos: what the probes are measured on; None: a part of `videos`.
            val_labels: their labels, where they are a list.
            val_share: how much of the videos of each label that part is.
            out: folder of the probe, a run of its own; None: below this run's.
            progress: show what it prints; False: append it to its `log.txt`.
            **overrides: fields of the job by their last names, e.g. `balanced=True, knn=None`.

        Raises:
            BadInput: naming the argument or the videos that cannot be used.
            TypeError: for an override that there is not.
        """
        folder = self.path if out is None else out_folder(out)
        train, val = index_pair(
            (videos, labels),
            None if val_videos is None else (val_videos, val_labels),
            folder=folder / "index",
            val_share=val_share,
            seed=overrides.get("seed", 0),
            label_names=overrides.get("label_names"),
            root=overrides.get("root"),
        )
        sections = {
            "source": str(self.path),
            "data": {"index": train.path, "val_index": val.path},
        }
        job = build_job({"kind": "probe"}, sections, {**overrides})
        return self._measured(job, out=out, indexes=(train, val), progress=progress)

    def pictures(self, videos: Iterable[Location] = (), *, out: Out | None = None) -> Path:
        """Draws what `cmaev pictures` draws, and returns the HTML page.

        Args:
            videos: videos to show; None: some of the run's own.
            out: folder; None: `pictures` of the run.

        Raises:
            BadInput: if there is nothing to draw yet, or a video cannot be read.
        """
        from cmaev.pictures.gallery import picture_run

        folder = self._folder.pictures if out is None else out_folder(out)
        return picture_run(self._folder, videos=[os.fspath(video) for video in videos], out=folder)

    def _checked(self, words: Mapping[str, object]) -> EvaluateJob:
        """Arguments by the rules that an evaluation's overrides of these names are held to."""
        sections = {"source": str(self.path), "data": {"index": "of the call"}}
        job = build_job({"kind": "evaluate"}, sections, words)
        assert isinstance(job, EvaluateJob)
        if job.checkpoint == "best" and not isinstance(self.job, FinetuneJob):
            raise BadInput("checkpoint: only finetune runs measure which is best; take the newest")
        return job

    def _measured(
        self, job: JobSpec, *, out: Out | None, indexes: Iterable[IndexFile], progress: bool
    ) -> "Run":
        """Runs a job about this run; without a folder of its own it gets one by its content."""
        own = self.path / job.kind / content_hash(job)[:12]
        folder = run_job(
            job, out=own if out is None else out_folder(out), indexes=indexes, progress=progress
        )
        return Run(folder.path)
