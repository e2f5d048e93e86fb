"""Presets: the figures of the published recipes (method.md 0, 4.1 and 5)."""

import math

import pytest
import yaml

from cmaev_spec.job import FinetuneJob, PretrainJob, parse_job
from cmaev_spec.preset import list_presets, load_preset, preset_text

VIDEOS = {"kinetics400": 240_436, "ssv2": 168_913, "ucf101": 9_537, "hmdb51": 3_570}
"""Training videos: method.md 6, and the first official splits."""

PRETRAINING = [
    (f"base{hybrid}-pretrain{dataset}{length}", epochs, stride, 2048, 1.2e-3, 0.9)
    for hybrid in ("", "-convvit")
    for dataset, stride in (("", 4), ("-ssv2", 2))
    for length, epochs in (("", 800), ("-1600", 1600))
]
"""The paper's rows: (name, epochs, stride, batch, peak rate, mask ratio)."""
PRETRAINING += [
    ("base-pretrain-ucf101", 3200, 4, 192, 2.25e-4, 0.75),
    ("base-pretrain-hmdb51", 3200, 2, 192, 2.25e-4, 0.75),
]

FINETUNING = [
    (f"base{hybrid}-finetune{dataset}", epochs, sampling, flips, 384, 7.5e-4)
    for hybrid in ("", "-convvit")
    for dataset, epochs, sampling, flips in (
        ("", 75, "linspace", True),
        ("-ssv2", 50, "tsn", False),
    )
]
"""(name, epochs, sampling, flips, videos a step, peak rate)."""
FINETUNING += [
    ("base-finetune-ucf101", 100, "linspace", True, 128, 2.5e-4),
    ("base-finetune-hmdb51", 50, "linspace", True, 128, 2.5e-4),
]

ONE_GPU = [name for name in list_presets() if name.endswith("-1gpu")]
TRAINING = [name for name in list_presets() if {"pretrain", "finetune"} & set(name.split("-"))]


@pytest.mark.parametrize(("name", "epochs", "stride", "batch", "lr", "mask_ratio"), PRETRAINING)
def test_pretraining_is_the_recipe(
    name: str, epochs: int, stride: int, batch: int, lr: float, mask_ratio: float
) -> None:
    job = parse_job(load_preset(name))
    assert isinstance(job, PretrainJob)
    optim, data = job.optim, job.data
    assert (optim.epochs, optim.warmup_epochs, optim.batch_size) == (epochs, 40, batch)
    assert (optim.betas, optim.weight_decay, optim.clip_grad) == ((0.9, 0.95), 0.05, None)
    assert optim.lr == pytest.approx(lr)
    assert optim.min_lr == pytest.approx(1e-5 * batch / 256)
    assert (data.clip.frames, data.clip.stride, data.clip.size) == (16, stride, 224)
    assert data.shift == 2 * stride
    assert job.objective.mask_ratio == mask_ratio
    assert not data.hflip
    assert data.color_augment
    assert job.model.name == f"cmaev_{'conv' if 'convvit' in name else ''}vit_base_patch16_224"


@pytest.mark.parametrize(("name", "epochs", "sampling", "flips", "batch", "lr"), FINETUNING)
def test_finetuning_is_the_recipe(
    name: str, epochs: int, sampling: str, flips: bool, batch: int, lr: float
) -> None:
    job = parse_job(load_preset(name))
    assert isinstance(job, FinetuneJob)
    optim, augment = job.optim, job.data.augment
    assert (optim.epochs, optim.warmup_epochs, optim.batch_size) == (epochs, 5, batch)
    assert (optim.betas, optim.weight_decay, optim.label_smoothing) == ((0.9, 0.999), 0.05, 0.1)
    assert optim.lr == pytest.approx(lr), "by videos, not by samples of them"
    small = batch == 128
    assert optim.layer_decay == (0.7 if small else 0.75)
    assert optim.min_lr == pytest.approx((1e-5 if small else 1e-6) * batch / 256)
    assert (job.model.drop_path_rate, job.model.head_drop_rate) == (
        (0.2, 0.5) if small else (0.1, 0)
    )
    assert job.model.init_scale == 0.001
    assert (job.data.clip.sampling, job.data.hflip) == (sampling, flips)
    assert job.data.num_sample == 2
    assert (augment.mixup, augment.cutmix, augment.erase_probability) == (0.8, 1.0, 0.25)
    assert augment.rand_augment is not None
    assert augment.rand_augment.model_dump() == {
        "num_ops": 4,
        "probability": 0.5,
        "magnitude": 7.0,
        "magnitude_std": 0.5,
    }


def test_every_base_preset_is_held_to_a_recipe() -> None:
    known = {row[0] for row in (*PRETRAINING, *FINETUNING)} | set(ONE_GPU)
    assert known == {name for name in TRAINING if name.startswith("base")}


@pytest.mark.parametrize("name", ONE_GPU)
def test_one_gpu_takes_the_same_steps_in_smaller_pieces(name: str) -> None:
    one, many = parse_job(load_preset(name)), parse_job(load_preset(name.removesuffix("-1gpu")))
    assert isinstance(one, PretrainJob | FinetuneJob)
    assert one.resources.world_size == 1
    assert one.optim.batch_size // one.optim.accumulate <= 32
    changes = {"accumulate": many.optim.accumulate}  # type: ignore[union-attr]
    restored = one.model_copy(
        update={
            "resources": many.resources,
            "optim": one.optim.model_copy(update=changes),
        }
    )
    assert restored == many


@pytest.mark.parametrize("name", TRAINING)
def test_the_rate_follows_the_closed_formula(name: str) -> None:
    """Linear from 0 over the warm-up, then half a cosine; at 200 steps, with those at the bends."""
    job = parse_job(load_preset(name))
    assert isinstance(job, PretrainJob | FinetuneJob)
    optim = job.optim
    dataset = next((key for key in VIDEOS if key in name), "kinetics400")
    per_epoch = VIDEOS[dataset] // optim.batch_size
    assert optim.steps_per_epoch(VIDEOS[dataset]) == per_epoch
    warmup, total = optim.warmup_epochs * per_epoch, optim.epochs * per_epoch
    peak = optim.base_lr * optim.batch_size / 256
    least = optim.base_min_lr * optim.batch_size / 256
    bends = {0, 1, warmup - 1, warmup, warmup + 1, (warmup + total) // 2, total - 1}
    for step in sorted(bends | {total * i // 193 for i in range(193)}):
        if step < warmup:
            expected = peak * step / (warmup - 1)
        else:
            angle = math.pi * (step - warmup) / (total - warmup)
            expected = least + (peak - least) * math.cos(angle / 2) ** 2
        assert optim.lr_at(step, steps_per_epoch=per_epoch) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", list_presets())
def test_a_preset_is_shown_whole(name: str) -> None:
    """Under a comment of its own, and so that it runs when it is saved."""
    text = preset_text(name)
    shown = yaml.safe_load(text)
    assert shown == load_preset(name)
    assert "extends" not in shown
    assert parse_job(shown).kind == shown["kind"]
    assert text.startswith("# ")
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert len(comments) >= 2


def test_what_a_preset_leaves_out_is_that_of_the_one_it_extends() -> None:
    child, parent = load_preset("base-pretrain-ssv2-1600"), load_preset("base-pretrain")
    assert child["optim"] == {**parent["optim"], "epochs": 1600}
    assert child["data"] == {**parent["data"], "clip": {"frames": 16, "stride": 2, "size": 224}}
    assert child["resources"] == parent["resources"]


def test_evaluations_take_the_published_views() -> None:
    views = {name: load_preset(name)["data"] for name in ("evaluate", "evaluate-ssv2")}
    assert [(data["num_clips"], data["num_crops"]) for data in views.values()] == [(5, 3), (2, 3)]


def test_small_presets_augment_nothing() -> None:
    job = parse_job(load_preset("nano-finetune"))
    assert isinstance(job, FinetuneJob)
    assert not job.data.augment.mixes
    assert job.data.augment.rand_augment is None
    assert (job.data.num_sample, job.data.augment.erase_probability) == (1, 0.0)
