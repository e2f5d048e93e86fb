"""Probes of frozen features: nearest neighbours, logistic regression, attentive pooling.

Each is trained on some videos and answers with probabilities for others. All of them are
deterministic, so that every process of a run comes to the same answers.

Shapes: n training videos, m others, N tokens, D width, K classes.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmaev.models.attentive import AttentiveProbe
from cmaev_spec.exits import BadInput
from cmaev_spec.probe import AttentiveSpec, KnnSpec, LinearSpec

_QUERIES_AT_ONCE = 1024


def knn(train: Tensor, label: Tensor, others: Tensor, *, spec: KnnSpec, num_classes: int) -> Tensor:
    """Votes of the nearest training videos, weighted by exp(cosine / temperature).

    Args:
        train: (n, D).
        label: (n,) classes of the training videos.
        others: (m, D).
        spec: how many neighbours vote, and how sharply.
        num_classes: K.

    Returns:
        (m, K) shares of the votes.
    """
    train, others = F.normalize(train, dim=1), F.normalize(others, dim=1)
    votes = F.one_hot(label, num_classes).to(train.dtype)  # (n, K)
    shares = []
    for part in torch.split(others, _QUERIES_AT_ONCE):
        cosine, nearest = (part @ train.T).topk(min(spec.neighbours, len(train)), dim=1)
        weight = (cosine / spec.temperature).softmax(dim=1)  # (m, k)
        shares.append((weight[:, :, None] * votes[nearest]).sum(dim=1))  # (m, K)
    return torch.cat(shares)


def linear(
    train: Tensor,
    label: Tensor,
    others: Tensor,
    *,
    spec: LinearSpec,
    num_classes: int,
    seed: int,
) -> tuple[Tensor, float]:
    """Logistic regression; the penalty is chosen on a part of the training videos only.

    Args:
        train: (n, D).
        label: (n,) classes of the training videos.
        others: (m, D).
        spec: penalties to choose from.
        num_classes: K.
        seed: decides which training videos are held out to choose on.

    Returns:
        (m, K) probabilities, and the penalty.

    Raises:
        BadInput: if there is something to choose, and no video to choose on.
    """
    penalty = spec.l2[0]
    if len(spec.l2) > 1:
        chosen_on = held_out(label, share=spec.held_out, seed=seed)  # (n,)
        if not chosen_on.any():
            raise BadInput(
                "linear.l2: no class has two training videos, so there is nothing to choose a "
                "penalty on; give one"
            )
        penalty = min(
            # Of equals the strongest.
            sorted(spec.l2, reverse=True),
            key=lambda l2: _log_loss(
                _logistic(train[~chosen_on], label[~chosen_on], l2=l2, num_classes=num_classes),
                train[chosen_on],
                label[chosen_on],
            ),
        )
    predict = _logistic(train, label, l2=penalty, num_classes=num_classes)
    return predict(others).softmax(dim=1).float(), penalty


def held_out(label: Tensor, *, share: float, seed: int) -> Tensor:
    """(n,) bool: a random share of every class, of which at least one video is left.

    Classes with two videos or more have at least one held out.
    """
    rng = np.random.default_rng(seed)
    classes = label.cpu().numpy()
    chosen = np.zeros(len(classes), dtype=bool)
    for number in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == number))
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        chosen[rows[:count]] = True
    return torch.from_numpy(chosen).to(label.device)


def _logistic(
    train: Tensor, label: Tensor, *, l2: float, num_classes: int
) -> Callable[[Tensor], Tensor]:
    """Minimises mean cross-entropy + l2/2 |W|^2 in fp64; returns features -> logits."""
    mean, std = train.double().mean(dim=0), train.double().std(dim=0, correction=0)

    def standard(x: Tensor) -> Tensor:
        return (x.double() - mean) / (std + 1e-6)

    x = standard(train)  # (n, D)
    W = torch.zeros(num_classes, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    b = torch.zeros(num_classes, dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([W, b], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, W, b), label) + 0.5 * l2 * W.square().sum()
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return lambda others: F.linear(standard(others), W.detach(), b.detach())


def _log_loss(predict: Callable[[Tensor], Tensor], x: Tensor, label: Tensor) -> float:
    return float(F.cross_entropy(predict(x), label))


def attentive(
    train: Tensor,
    label: Tensor,
    others: Tensor,
    *,
    spec: AttentiveSpec,
    num_classes: int,
    seed: int,
    device: torch.device,
    after_epoch: Callable[[int, float], bool],
) -> Tensor | None:
    """Trains an attentive probe on tokens.

    Args:
        train: (n, N, D), on the CPU.
        label: (n,) classes of the training videos.
        others: (m, N, D).
        spec: how it is trained.
        num_classes: K.
        seed: decides initial weights and order.
        device: where it is trained.
        after_epoch: told (epochs done, mean loss); its True stops.

    Returns:
        (m, K) probabilities, or None if it was stopped.

    Raises:
        ValueError: if the heads do not divide the width.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = AttentiveProbe(
            train.shape[2],
            num_tokens=train.shape[1],
            num_classes=num_classes,
            num_heads=spec.num_heads,
        ).to(device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
    batches = -(-len(train) // spec.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: 0.5 * (1 + math.cos(math.pi * step / (spec.epochs * batches))),
    )
    for epoch in range(spec.epochs):
        total = torch.zeros((), device=device)
        order = torch.randperm(len(train), generator=generator)
        for rows in torch.split(order, spec.batch_size):
            loss = F.cross_entropy(probe(train[rows].to(device).float()), label[rows].to(device))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(rows)
        if after_epoch(epoch + 1, float(total) / len(train)):
            return None
    return _answers(probe, others, batch_size=spec.batch_size, device=device)


@torch.inference_mode()
def _answers(probe: nn.Module, others: Tensor, *, batch_size: int, device: torch.device) -> Tensor:
    def parts() -> Iterator[Tensor]:
        for tokens in torch.split(others, batch_size):
            yield probe(tokens.to(device).float()).softmax(dim=1).cpu()

    return torch.cat(list(parts()))
