"""Measuring a classifier on an index: figures, predictions, confusions, and unreadable videos."""

from collections.abc import Sequence
from contextlib import closing

from cmaev.data.index import VideoIndex
from cmaev.data.loader import EpochLoader
from cmaev.data.quarantine import Quarantine
from cmaev.data.views import EvaluateViews
from cmaev.engine.context import Context
from cmaev.engine.precision import Precision, resolve
from cmaev.engine.progress import ProgressDisplay
from cmaev.models import VideoClassifier
from cmaev.pictures.charts import confusion_chart
from cmaev.tasks.evaluate import Evaluation, evaluate
from cmaev_spec.data import LoadingSpec
from cmaev_spec.exits import BadInput
from cmaev_spec.files import write_atomic


def measure(
    model: VideoClassifier,
    views: EvaluateViews,
    index: VideoIndex,
    labels: Sequence[str],
    context: Context,
    *,
    batch_size: int,
    loading: LoadingSpec,
    precision: Precision = "auto",
    probabilities: bool = False,
    written: bool = True,
) -> dict[str, float] | None:
    """Evaluates and returns the figures; None if it was stopped.

    Args:
        model: the classifier.
        views: of the videos.
        index: names the videos.
        labels: names the classes.
        context: the run.
        batch_size: videos of a batch.
        loading: loader processes and their limits.
        precision: of matrix products; see `run.precision`.
        probabilities: whether predictions list those of all classes.
        written: whether predictions and confusions are written into the run directory.

    Raises:
        BadInput: naming every video that cannot be read; figures without them would mislead.
    """
    world = context.world
    loader = every_video_once(views, index, context, batch_size=batch_size, loading=loading)
    total = -(-len(index) // world.size)
    with (
        closing(loader),
        ProgressDisplay("evaluate", total=total, enabled=world.main) as display,
    ):

        def progress(done: int) -> None:
            display.update(done)
            context.events.progress("evaluate", step=min(done, total), total_steps=total)

        evaluation = evaluate(
            model,
            loader.epoch(0),
            world=world,
            stop=context.stop,
            dtype=resolve(precision, world.device),
            progress=progress,
        )
    if evaluation is None:
        return None
    refuse_bad(loader.quarantine, index, context)
    if world.main and written:
        write_evaluation(evaluation, index, labels, context, probabilities=probabilities)
    return evaluation.figures()


def every_video_once(
    views: EvaluateViews,
    index: VideoIndex,
    context: Context,
    *,
    batch_size: int,
    loading: LoadingSpec,
) -> EpochLoader:
    """Batches of all videos in the order of the index, shared among the processes."""
    return EpochLoader(
        views,
        batch_size=batch_size,
        seed=0,
        shuffle=False,
        drop_last=False,
        index=index,
        rank=context.world.rank,
        world_size=context.world.size,
        loading=loading,
    )


def write_evaluation(
    evaluation: Evaluation,
    index: VideoIndex,
    labels: Sequence[str],
    context: Context,
    *,
    suffix: str = "",
    probabilities: bool = False,
) -> None:
    """Writes predictions and confusions of an evaluation into the run directory.

    Args:
        evaluation: of every video of `index`.
        index: names the videos.
        labels: names the classes.
        context: the run.
        suffix: tells the files of several evaluations of one run apart.
        probabilities: whether predictions list those of all classes.
    """
    run = context.run
    predictions = run.path / f"predictions{suffix}.csv"
    text = evaluation.to_csv(paths=index.paths, labels=labels, probabilities=probabilities)
    write_atomic(predictions, text)
    context.events.artifact("predictions", predictions)
    confusion = run.path / f"confusion{suffix}.csv"
    write_atomic(confusion, evaluation.confusion_csv(labels))
    context.events.artifact("other", confusion)
    picture = run.pictures / f"confusion{suffix}.png"
    confusion_chart(evaluation.confusion(), picture, labels=labels)
    context.events.artifact("picture", picture)


def refuse_bad(quarantine: Quarantine, index: VideoIndex, context: Context) -> None:
    """Ends an evaluation that could not read some of its videos, in every process.

    Raises:
        BadInput: naming the bad videos of all processes.
    """
    together = Quarantine(
        videos=len(index), path=context.run.bad_test_videos if context.world.main else None
    )
    together.meet(bad for part in context.world.gather(quarantine.listed()) for bad in part)
    if together:
        raise BadInput(
            f"{len(together)} of {len(index)} videos of {index.source} cannot be read; without "
            f"them the figures would be of another test: {together.summary()}"
        )
