"""The learning rate and the numbers derived from the specification."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmaev_spec.data import ClipSpec, PretrainData
from cmaev_spec.optim import FinetuneOptimSpec, OptimSpec
from cmaev_spec.resources import ResourceSpec


def optim(**changes: float) -> OptimSpec:
    return OptimSpec.model_validate(
        {"base_lr": 1e-3, "base_min_lr": 1e-5, "batch_size": 512, "epochs": 10, **changes}
    )


def test_rates_scale_with_the_batch() -> None:
    assert optim().lr == pytest.approx(2e-3)
    assert optim().min_lr == pytest.approx(2e-5)
    assert optim(batch_size=64).lr == pytest.approx(2.5e-4)


def test_the_schedule_is_warmup_then_cosine() -> None:
    spec = optim(warmup_epochs=2)
    at = [spec.lr_at(step, steps_per_epoch=5) for step in range(50)]
    assert at[0] == 0.0
    assert at[:10] == pytest.approx([spec.lr * step / 9 for step in range(10)])
    for step in range(10, 50):
        share = 0.5 * (1 + math.cos(math.pi * (step - 10) / 40))
        assert at[step] == pytest.approx(spec.min_lr + share * (spec.lr - spec.min_lr))
    assert at[9] == at[10] == spec.lr


def test_without_warmup_the_first_step_is_at_the_peak() -> None:
    assert optim().lr_at(0, steps_per_epoch=3) == optim().lr


@given(
    epochs=st.integers(2, 50),
    warmup=st.integers(0, 10),
    steps=st.integers(1, 40),
    base_lr=st.floats(1e-4, 1.0),
)
def test_the_schedule_stays_within_its_bounds(
    epochs: int, warmup: int, steps: int, base_lr: float
) -> None:
    spec = optim(epochs=epochs, warmup_epochs=min(warmup, epochs - 1), base_lr=base_lr)
    rates = [spec.lr_at(step, steps_per_epoch=steps) for step in range(epochs * steps)]
    begin = spec.warmup_epochs * steps
    assert all(0.0 <= rate <= spec.lr * (1 + 1e-12) for rate in rates)
    assert rates[:begin] == sorted(rates[:begin])
    assert rates[begin:] == sorted(rates[begin:], reverse=True)
    assert rates[-1] >= spec.min_lr * (1 - 1e-12)


def test_the_incomplete_batch_is_dropped() -> None:
    assert optim().steps_per_epoch(511) == 0
    assert optim().steps_per_epoch(1025) == 2


def test_finetuning_has_its_own_defaults() -> None:
    spec = FinetuneOptimSpec(base_lr=1e-3, batch_size=16, epochs=1)
    assert (spec.betas, spec.layer_decay, spec.base_min_lr) == ((0.9, 0.999), 0.75, 1e-6)


def test_derived_geometry() -> None:
    assert ClipSpec(frames=16, stride=4).span == 64
    assert PretrainData(index="a.csv").shift == 8
    assert PretrainData(index="a.csv", temporal_shift=0).shift == 0
    assert ResourceSpec(nodes=3, processes_per_node=8).world_size == 24
