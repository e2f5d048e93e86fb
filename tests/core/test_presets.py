"""Every training preset, built: sizes, weight decay, rates by layer, drop path, visible tokens."""

import pytest
import torch
from torch import nn

from cmaev.checkpoints.runs import build_classifier, build_pretraining_model
from cmaev.engine.optim import has_decay
from cmaev.masking import num_visible
from cmaev.tasks.finetune import FinetuneTask
from cmaev.tasks.pretrain import PretrainTask
from cmaev_spec.job import FinetuneJob, PretrainJob, parse_job
from cmaev_spec.preset import list_presets, load_preset

CLASSES = {"ssv2": 174, "ucf101": 101, "hmdb51": 51}

PROJECTION = 1_577_472 + 791_040
"""Projector and predictor of a base model (method.md 3)."""
HEAD = 768 * 400 + 400
DECODER = 94_210_944 - (86_534_800 - HEAD)
"""Decoder, mask token and the projection to it."""
FINETUNED = {"vit": 86_534_800, "convvit": 84_766_736}
"""Parameters with 400 classes (method.md 1.1, 2.3)."""
PRETRAINED = {
    "vit": 94_210_944 + PROJECTION,
    "convvit": 84_766_736 - HEAD + 4_326_912 + DECODER + PROJECTION,
}
"""Trainable parameters; the hybrid's with those that fuse its stages (method.md 2.4)."""


def presets(kind):
    return [name for name in list_presets() if load_preset(name)["kind"] == kind]


def family(name):
    return "convvit" if "convvit" in name else "vit"


def trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_unless_nano(name, expected, model):
    if not name.startswith("nano"):
        assert trainable(model) == expected


@pytest.mark.parametrize("name", presets("pretrain"))
def test_pretraining_presets_build(name):
    job = parse_job(load_preset(name))
    assert isinstance(job, PretrainJob)
    with torch.device("meta"):
        model = build_pretraining_model(job)
    count_unless_nano(name, PRETRAINED[family(name)], model)
    task = PretrainTask(model, objective=job.objective)
    t, h, w = model.encoder.grid
    hidden = int(job.objective.mask_ratio * h * w)
    assert task.num_visible == num_visible((t, h, w), job.objective.mask_ratio)
    assert task.num_visible == t * (h * w - hidden)
    assert {task.layer_scale(key) for key, _ in model.named_parameters()} == {1.0}
    assert_decay(model)


@pytest.mark.parametrize("name", presets("finetune"))
def test_finetuning_presets_build(name):
    job = parse_job(load_preset(name))
    assert isinstance(job, FinetuneJob)
    classes = next((count for part, count in CLASSES.items() if part in name), 400)
    with torch.device("meta"):
        model = build_classifier(job, num_classes=classes)
    fewer = (400 - classes) * 769
    count_unless_nano(name, FINETUNED[family(name)] - fewer, model)
    task = FinetuneTask(
        model,
        label_smoothing=job.optim.label_smoothing,
        layer_decay=job.optim.layer_decay,
        augment=job.data.augment,
    )
    for key, _ in model.named_parameters():
        expected = job.optim.layer_decay ** distance(key, model, hybrid=family(name) == "convvit")
        assert task.layer_scale(key) == pytest.approx(expected, rel=1e-12), key
    assert_decay(model)
    assert_drop_path(model, job.model.drop_path_rate)
    assert getattr(model.fc_dropout, "p", 0.0) == job.model.head_drop_rate


def distance(key, model, *, hybrid):
    """Layers from a parameter to the head (method.md 2.1 and 5), by the names alone."""
    attention = model.encoder.blocks3 if hybrid else model.encoder.blocks
    last = len(attention) + 1
    stage = "encoder.blocks3." if hybrid else "encoder.blocks."
    if key.startswith(stage):
        return last - (int(key.split(".")[2]) + 1)
    return last if key.startswith("encoder.") else 0


def assert_decay(model):
    """Matrices and kernels decay; vectors and the mask token do not."""
    for key, parameter in model.named_parameters():
        free = parameter.ndim == 1 or key == "mask_token"
        assert has_decay(key, parameter) is not free, key


def assert_drop_path(model, rate):
    """Linear over all blocks, those of the early stages included."""
    blocks = [part for part in model.encoder.modules() if hasattr(part, "drop_path")]
    found = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert found == pytest.approx([rate * k / (len(blocks) - 1) for k in range(len(blocks))])


def test_initial_heads_are_a_thousandth():
    job = parse_job(load_preset("nano-finetune"))
    scaled = job.model_copy(update={"model": job.model.model_copy(update={"init_scale": 0.001})})
    torch.manual_seed(0)
    plain = build_classifier(job, num_classes=400).head.weight.std()
    torch.manual_seed(0)
    head = build_classifier(scaled, num_classes=400).head
    assert isinstance(head, nn.Linear)
    torch.testing.assert_close(head.weight.std(), plain * 0.001)
    assert head.weight.std().item() == pytest.approx(2.0e-5, rel=0.05)  # method.md 1.4
