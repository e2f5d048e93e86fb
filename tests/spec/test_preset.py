"""Presets: the figures of the published recipes (method.md 4.1 and 5)."""

import pytest

from cmaev_spec.job import FinetuneJob, PretrainJob, parse_job
from cmaev_spec.preset import load_preset


@pytest.mark.parametrize(
    ("name", "epochs", "sampling", "flips"),
    [
        ("base-finetune", 75, "linspace", True),
        ("base-convvit-finetune", 75, "linspace", True),
        ("base-finetune-ssv2", 50, "tsn", False),
    ],
)
def test_finetuning_is_the_recipe(name: str, epochs: int, sampling: str, flips: bool) -> None:
    job = parse_job(load_preset(name))
    assert isinstance(job, FinetuneJob)
    assert (job.optim.epochs, job.data.clip.sampling, job.data.hflip) == (epochs, sampling, flips)
    assert job.optim.lr == pytest.approx(7.5e-4), "by videos, not by samples of them"
    assert job.data.num_sample == 2
    augment = job.data.augment
    assert (augment.mixup, augment.cutmix, augment.erase_probability) == (0.8, 1.0, 0.25)
    assert augment.rand_augment is not None
    assert augment.rand_augment.model_dump() == {
        "num_ops": 4,
        "probability": 0.5,
        "magnitude": 7.0,
        "magnitude_std": 0.5,
    }


@pytest.mark.parametrize(("name", "stride"), [("base-pretrain", 4), ("base-pretrain-ssv2", 2)])
def test_pretraining_is_the_recipe(name: str, stride: int) -> None:
    job = parse_job(load_preset(name))
    assert isinstance(job, PretrainJob)
    assert job.optim.lr == pytest.approx(1.2e-3)
    assert (job.data.clip.stride, job.data.shift) == (stride, 2 * stride)
    assert not job.data.hflip
    assert job.data.color_augment


def test_small_presets_augment_nothing() -> None:
    job = parse_job(load_preset("nano-finetune"))
    assert isinstance(job, FinetuneJob)
    assert not job.data.augment.mixes
    assert job.data.augment.rand_augment is None
    assert (job.data.num_sample, job.data.augment.erase_probability) == (1, 0.0)
