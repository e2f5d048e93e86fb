"""Evaluation: every video exactly once under any number of ranks, and what is written about it."""

import csv
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cmaev.data.loader import EpochLoader
from cmaev.data.samples import Sample
from cmaev.engine.distributed import World
from cmaev.engine.signals import StopRequest
from cmaev.tasks.evaluate import Evaluation, evaluate

CLASSES = 3


class Videos:
    """Two views of each video; the first pixels say which video it is."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, *, epoch: int) -> Sample:
        video = np.full((2, 2, 1, 1, 3), index, dtype=np.uint8)
        return {
            "video": video,
            "label": np.asarray(index % CLASSES),
            "index": np.asarray(index, dtype=np.int64),
        }


class Brightness(nn.Module):
    """Logits that follow from the brightness of a clip, so that a mix-up of videos shows."""

    def forward(self, video: Tensor) -> Tensor:
        level = video.mean(dim=(1, 2, 3, 4))  # (B,)
        return torch.stack([level, -level, 0 * level], dim=1)  # (B, K)


@dataclass(frozen=True)
class Rank(World):
    """One of several ranks that run in turn; the last gathers what the others left."""

    left: list[Any] = field(default_factory=list)

    def any(self, flag: bool) -> bool:
        return flag

    def gather(self, value: Any) -> list[Any]:
        self.left.append(value)
        return list(self.left)


@given(count=st.integers(1, 40), batch_size=st.integers(1, 6), ranks=st.integers(1, 5))
def test_no_video_is_lost_or_counted_twice_under_any_number_of_ranks(
    count: int, batch_size: int, ranks: int
) -> None:
    def evaluation(batch_size: int, ranks: int) -> Evaluation:
        left: list[Any] = []
        for rank in range(ranks):
            loader = EpochLoader(
                Videos(count),
                batch_size=batch_size,
                seed=0,
                shuffle=False,
                drop_last=False,
                rank=rank,
                world_size=ranks,
            )
            result = evaluate(
                Brightness(),  # type: ignore[arg-type]
                loader.epoch(0),
                world=Rank(rank, ranks, torch.device("cpu"), left),
                stop=StopRequest(),
            )
        assert result is not None
        return result

    shared, alone = evaluation(batch_size, ranks), evaluation(count, 1)
    assert shared.index.tolist() == list(range(count))
    assert shared.label.tolist() == [index % CLASSES for index in range(count)]
    np.testing.assert_allclose(shared.probability, alone.probability, rtol=1e-5)
    assert shared.figures()["num_videos"] == count
    assert shared.confusion().sum() == count


def example() -> Evaluation:
    return Evaluation(
        index=np.array([0, 1, 2, 3]),
        label=np.array([0, 0, 1, 2]),
        probability=np.array(
            [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], dtype=np.float32
        ),
    )


def test_figures_and_confusions_by_hand() -> None:
    evaluation = example()
    assert evaluation.figures() == {"num_videos": 4, "top1": 0.5, "macro_recall": 0.5}
    assert evaluation.confusion().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    text = evaluation.confusion_csv(["a", "b,b", "c"])
    assert list(csv.reader(io.StringIO(text))) == [
        ["true", "a", "b,b", "c"],
        ["a", "1", "1", "0"],
        ["b,b", "0", "1", "0"],
        ["c", "1", "0", "0"],
    ]


def test_predictions_list_every_class_on_request() -> None:
    paths = ["w.mp4", "x,1.mp4", "y.mp4", "z.mp4"]
    text = example().to_csv(paths=paths, labels=["a", "b", "c"], probabilities=True)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["path"] for row in rows] == paths
    assert rows[1] == {
        "path": "x,1.mp4",
        "label": "a",
        "prediction": "b",
        "probability": "0.8000",
        "p:a": "0.100000",
        "p:b": "0.800000",
        "p:c": "0.100000",
    }
    plain = example().to_csv(paths=paths, labels=["a", "b", "c"])
    assert plain.splitlines()[0] == "path,label,prediction,probability"


@given(st.integers(6, 12), st.integers(1, 30), st.integers(0, 9))
def test_top5_counts_videos_whose_label_is_among_the_five_most_probable(
    classes: int, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.ones(classes), size=count).astype(np.float32)
    label = rng.integers(classes, size=count)
    figures = Evaluation(index=np.arange(count), label=label, probability=probability).figures()
    better = (probability > probability[np.arange(count), label][:, None]).sum(axis=1)
    assert figures["top5"] == np.mean(better < 5)


def test_products_have_the_precision_that_was_asked_for() -> None:
    class Seen(nn.Module):
        """Tells the type of its products."""

        def forward(self, video: Tensor) -> Tensor:
            flat = video.flatten(1)  # (B, P)
            self.dtype = (flat @ flat.T).dtype
            return video.new_zeros(len(video), CLASSES)  # (B, K)

    seen = Seen()
    for dtype in (torch.float32, torch.bfloat16):
        loader = EpochLoader(Videos(2), batch_size=2, seed=0, shuffle=False, drop_last=False)
        evaluation = evaluate(
            seen,  # type: ignore[arg-type]
            loader.epoch(0),
            world=World(0, 1, torch.device("cpu")),
            stop=StopRequest(),
            dtype=dtype,
        )
        assert seen.dtype == dtype
        assert evaluation is not None
        assert evaluation.probability.dtype == np.float32
