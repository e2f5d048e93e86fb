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


def knn(train: Tensor, label: Tensor, others: Tensor, *, spec: KnnSpec, weight: Tensor) -> Tensor:
    """Votes of the nearest training videos, weighted by exp(cosine / temperature).

    Args:
        train: (n, D).
        label: (n,) classes of the training videos.
        others: (m, D).
        spec: how many neighbours vote, and how sharply.
        weight: (K,) factors on the votes for each class.

    Returns:
        (m, K) shares of the votes.
    """
    train, others = F.normalize(train, dim=1), F.normalize(others, dim=1)
    votes = weight * F.one_hot(label, len(weight)).to(train.dtype)  # (n, K)
    shares = []
    for part in torch.split(others, _QUERIES_AT_ONCE):
        cosine, nearest = (part @ train.T).topk(min(spec.neighbours, len(train)), dim=1)
        closeness = (cosine / spec.temperature).softmax(dim=1)  # (m, k)
        shares.append((closeness[:, :, None] * votes[nearest]).sum(dim=1))  # (m, K)
    return F.normalize(torch.cat(shares), p=1, dim=1)


def linear(
    train: Tensor,
    label: Tensor,
    others: Tensor,
    *,
    spec: LinearSpec,
    weight: Tensor,
    seed: int,
) -> tuple[Tensor, float]:
    """Logistic regression; the penalty is chosen on a part of the training videos only.

    Args:
        train: (n, D).
        label: (n,) classes of the training videos.
        others: (m, D).
        spec: penalties to choose from.
        weight: (K,) factors on the losses of each class.
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
                _logistic(train[~chosen_on], label[~chosen_on], l2=l2, weight=weight),
                train[chosen_on],
                label[chosen_on],
                weight,
            ),
        )
    predict = _logistic(train, label, l2=penalty, weight=weight)
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
    train: Tensor, label: Tensor, *, l2: float, weight: Tensor
) -> Callable[[Tensor], Tensor]:
    """Minimises weighted mean cross-entropy + l2/2 |W|^2 in fp64; returns features -> logits."""
    mean, std = train.double().mean(dim=0), train.double().std(dim=0, correction=0)

    def standard(x: Tensor) -> Tensor:
        return (x.double() - mean) / (std + 1e-6)

    x = standard(train)  # (n, D)
    W = torch.zeros(len(weight), x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    b = torch.zeros(len(weight), dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([W, b], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        mean_loss = F.cross_entropy(F.linear(x, W, b), label, weight=weight.double())
        value = mean_loss + 0.5 * l2 * W.square().sum()
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return lambda others: F.linear(standard(others), W.detach(), b.detach())


def _log_loss(
    predict: Callable[[Tensor], Tensor], x: Tensor, label: Tensor, weight: Tensor
) -> float:
    return float(F.cross_entropy(predict(x), label, weight=weight.double()))


def attentive(
    train: Tensor,
    label: Tensor,
    others: Tensor,
    *,
    spec: AttentiveSpec,
    weight: Tensor,
    seed: int,
    device: torch.device,
    after_epoch: Callable[[int, float], bool],
) -> Tensor | None:
    """Trains an attentive probe on tokens, which may be on another device.

    Args:
        train: (n, N, D).
        label: (n,) their classes.
        others: (m, N, D).
        spec: how it is trained.
        weight: (K,) factors on the losses of each class.
        seed: decides initial weights and order.
        device: where it is trained.
        after_epoch: told (epochs done, mean loss); its True stops.

    Returns:
        (m, K) probabilities, or None if it was stopped.

    Raises:
        ValueError: if the heads do not divide the width.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, N, D = train.shape
        probe = AttentiveProbe(D, num_tokens=N, num_classes=len(weight), num_heads=spec.num_heads)
    probe, weight = probe.to(device), weight.to(device)

    def loss_of(rows: Tensor) -> Tensor:
        logits = probe(train[rows].to(device).float())  # (B, K)
        return F.cross_entropy(logits, label[rows].to(device), weight=weight)

    if not _fit(probe, loss_of, len(train), spec=spec, seed=seed, after_epoch=after_epoch):
        return None
    return _answers(probe, others, batch_size=spec.batch_size, device=device)


def _fit(
    probe: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    count: int,
    *,
    spec: AttentiveSpec,
    seed: int,
    after_epoch: Callable[[int, float], bool],
) -> bool:
    """Minimises `loss_of(rows)` over `count` rows; False if it was stopped."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
    steps = spec.epochs * -(-count // spec.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    for epoch in range(1, spec.epochs + 1):
        losses = []
        for rows in torch.split(torch.randperm(count, generator=generator), spec.batch_size):
            loss = loss_of(rows)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            losses.append(loss.detach() * len(rows))
        if after_epoch(epoch, float(torch.stack(losses).sum()) / count):
            return False
    return True


@torch.inference_mode()
def _answers(probe: nn.Module, others: Tensor, *, batch_size: int, device: torch.device) -> Tensor:
    def parts() -> Iterator[Tensor]:
        for tokens in torch.split(others, batch_size):
            yield probe(tokens.to(device).float()).softmax(dim=1).cpu()

    return torch.cat(list(parts()))
