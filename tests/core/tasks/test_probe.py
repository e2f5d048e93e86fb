"""The probes on features whose answers are known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cmaev.models.attentive import AttentiveProbe
from cmaev.tasks import probe
from cmaev.tasks.features import pool_tokens
from cmaev.tasks.weights import class_weights
from cmaev_spec.exits import BadInput
from cmaev_spec.probe import AttentiveSpec, KnnSpec, LinearSpec

CPU = torch.device("cpu")
EVEN = torch.ones(2)


SMALL = {"spec": AttentiveSpec(num_heads=2, epochs=20, batch_size=40, lr=5e-3)}


def blobs(count: int, *, classes: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Points around a centre for each class, the same centres for every seed."""
    centres = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % classes
    return centres[label] + spread * torch.randn(count, 16, generator=generator), label


def test_neighbours_vote_by_their_cosine() -> None:
    """By hand: two neighbours of three; lengths do not matter."""
    train = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    label = torch.tensor([0, 1, 2])
    other = torch.tensor([[3.0, 4.0]])
    spec = KnnSpec(neighbours=2, temperature=0.5)
    share = probe.knn(train, label, other, spec=spec, weight=torch.ones(3))
    weight = torch.tensor([0.6 / 0.5, 0.8 / 0.5]).softmax(dim=0)
    torch.testing.assert_close(share, torch.tensor([[weight[0], weight[1], 0.0]]))


def test_neighbours_are_at_most_the_videos_there_are() -> None:
    train, label = blobs(6, classes=2, spread=0.1, seed=0)
    share = probe.knn(train, label, train, spec=KnnSpec(neighbours=50), weight=EVEN)
    torch.testing.assert_close(share.sum(dim=1), torch.ones(6))


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_what_is_held_out_leaves_every_class_a_video(
    counts: list[int], share: float, seed: int
) -> None:
    label = torch.cat([torch.full((count,), number) for number, count in enumerate(counts)])
    chosen = probe.held_out(label, share=share, seed=seed)
    assert torch.equal(chosen, probe.held_out(label, share=share, seed=seed))
    for number, count in enumerate(counts):
        out = int(chosen[label == number].sum())
        assert out == min(max(1, round(share * count)), count - 1)


def test_logistic_regression_is_the_minimum() -> None:
    """Where the gradient of the penalised loss is zero, recomputed here with autograd."""
    train, label = blobs(60, classes=3, spread=1.5, seed=0)
    others, _ = blobs(9, classes=3, spread=1.5, seed=1)
    answer, l2 = probe.linear(
        train, label, others, spec=LinearSpec(l2=(0.1,)), weight=torch.ones(3), seed=0
    )
    assert l2 == 0.1
    x = train.double()
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0) + 1e-6
    W = torch.zeros(3, 16, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([W, b], lr=0.5)
    for _ in range(2000):
        loss = F.cross_entropy((x - mean) / std @ W.T + b, label) + 0.05 * W.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = (((others.double() - mean) / std) @ W.T + b).softmax(dim=1)
    torch.testing.assert_close(answer, expected.detach().float(), atol=1e-3, rtol=0)


def test_the_penalty_is_chosen_without_the_videos_it_is_measured_on() -> None:
    """Noise asks for a strong penalty, separate classes for a weak one; others change nothing."""
    spec = LinearSpec(l2=(1e-4, 10.0))
    clear, label = blobs(80, classes=4, spread=0.3, seed=0)
    noise = torch.randn(80, 16, generator=torch.Generator().manual_seed(3))
    chosen = {}
    for name, train in (("clear", clear), ("noise", noise)):
        for others in (clear, noise):
            _, chosen[name] = probe.linear(
                train, label, others, spec=spec, weight=torch.ones(4), seed=0
            )
        assert chosen[name] == (1e-4 if name == "clear" else 10.0)


def test_tokens_are_averaged_with_their_neighbours() -> None:
    grid, to = (4, 2, 2), (2, 1, 2)
    tokens = torch.randn(3, 16, 5)
    volume = tokens.reshape(3, 2, 2, 1, 2, 2, 1, 5)  # (B, t, t/, h, h/, w, w/, D)
    expected = volume.mean(dim=(2, 4, 6)).reshape(3, 4, 5)
    torch.testing.assert_close(pool_tokens(tokens, grid=grid, to=to), expected)
    assert pool_tokens(tokens, grid=grid, to=grid) is tokens


def ordered_tokens(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Two classes with the same tokens in another order: their means say nothing."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, 16, generator=torch.Generator().manual_seed(7))
    label = torch.arange(count) % 2
    tokens = 0.1 * torch.randn(count, 8, 16, generator=generator)
    for row, number in enumerate(label.tolist()):
        tokens[row, 0] += first if number == 0 else second
        tokens[row, 7] += second if number == 0 else first
    return tokens.half(), label


def trained(train: Tensor, label: Tensor, others: Tensor, **changes: object) -> Tensor | None:
    options = {
        "spec": AttentiveSpec(num_heads=4, epochs=15, batch_size=16, lr=5e-3),
        "weight": EVEN,
        "seed": 0,
        "device": CPU,
        "after_epoch": lambda epoch, loss: False,
    } | changes
    return probe.attentive(train, label, others, **options)  # type: ignore[arg-type]


def test_the_attentive_probe_reads_order_where_means_cannot() -> None:
    train, label = ordered_tokens(64, seed=0)
    others, true = ordered_tokens(32, seed=1)
    answer = trained(train, label, others)
    assert answer is not None
    assert (answer.argmax(dim=1) == true).float().mean() > 0.9
    means = train.float().mean(dim=1), label, others.float().mean(dim=1)
    pooled, _ = probe.linear(*means, spec=LinearSpec(), weight=torch.ones(2), seed=0)
    assert (pooled.argmax(dim=1) == true).float().mean() < 0.8


def test_training_an_attentive_probe_repeats_and_leaves_the_global_generator_alone() -> None:
    train, label = ordered_tokens(16, seed=0)
    state = torch.get_rng_state()
    first, second = trained(train, label, train), trained(train, label, train)
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    other = trained(train, label, train, seed=1)
    assert other is not None
    assert not torch.equal(first, other)


def test_an_attentive_probe_stops_between_epochs() -> None:
    train, label = ordered_tokens(16, seed=0)
    epochs: list[int] = []

    def after_epoch(epoch: int, loss: float) -> bool:
        epochs.append(epoch)
        return epoch == 3

    assert trained(train, label, train, after_epoch=after_epoch) is None
    assert epochs == [1, 2, 3]


def test_attention_is_a_mean_of_values_where_the_query_is_zero() -> None:
    module = AttentiveProbe(16, num_tokens=8, num_classes=3, num_heads=2)
    with torch.no_grad():
        module.query.zero_()
    tokens = torch.randn(2, 8, 16)
    expected = module.head(module.value(module.norm(tokens)).mean(dim=1))
    torch.testing.assert_close(module(tokens), expected)
    with pytest.raises(ValueError, match="must divide the width"):
        AttentiveProbe(16, num_tokens=8, num_classes=3, num_heads=3)


def test_classes_without_a_spread_do_not_divide_by_zero() -> None:
    train = torch.ones(6, 4)
    answer, _ = probe.linear(
        train, torch.arange(6) % 2, train, spec=LinearSpec(), weight=torch.ones(2), seed=0
    )
    np.testing.assert_allclose(answer, 0.5, atol=1e-6)


def test_a_penalty_cannot_be_chosen_on_nothing() -> None:
    train, label = torch.eye(3), torch.arange(3)
    with pytest.raises(BadInput, match="no class has two training videos"):
        probe.linear(train, label, train, spec=LinearSpec(), weight=torch.ones(3), seed=0)
    answer, _ = probe.linear(
        train, label, train, spec=LinearSpec(l2=(0.1,)), weight=torch.ones(3), seed=0
    )
    assert torch.equal(answer.argmax(dim=1), label)


@given(counts=st.lists(st.integers(0, 20), min_size=2, max_size=6).filter(any))
def test_balanced_classes_weigh_the_same_together(counts: list[int]) -> None:
    label = torch.cat([torch.full((count,), number) for number, count in enumerate(counts)])
    weight = class_weights(label, num_classes=len(counts), balanced=True)
    together = weight * torch.tensor(counts)
    expected = sum(counts) / sum(count > 0 for count in counts)
    for total, count in zip(together.tolist(), counts, strict=True):
        assert total == pytest.approx(expected if count else 0.0, rel=1e-5)
    even = class_weights(label, num_classes=len(counts), balanced=False)
    assert torch.equal(even, torch.ones(len(counts)))


def test_a_rare_class_is_found_where_classes_weigh_the_same() -> None:
    """Two classes that overlap, one of them 19 times as frequent."""
    generator = torch.Generator().manual_seed(0)
    label = (torch.arange(400) % 20 == 0).long()
    points = torch.randn(400, 1, 4, generator=generator)
    points[label == 1] += 1.0
    points = points + 5.0  # away from zero, where cosines would jump
    pooled = points[:, 0]
    recall = {}
    for balanced in (False, True):
        weight = class_weights(label, num_classes=2, balanced=balanced)
        answers = {
            "knn": probe.knn(pooled, label, pooled, spec=KnnSpec(temperature=1), weight=weight),
            "linear": probe.linear(
                pooled, label, pooled, spec=LinearSpec(l2=(0.01,)), weight=weight, seed=0
            )[0],
            "attentive": trained(points.half(), label, points.half(), weight=weight, **SMALL),
        }
        for name, answer in answers.items():
            assert answer is not None
            torch.testing.assert_close(answer.sum(dim=1), torch.ones(400))
            recall[name, balanced] = float((answer.argmax(dim=1)[label == 1] == 1).float().mean())
    for name in ("knn", "linear", "attentive"):
        assert recall[name, True] > recall[name, False] + 0.2
