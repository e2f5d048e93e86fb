import pytest
import torch

from cmaev.models import create_model, create_pretraining_model, list_models
from cmaev.models.architectures import ARCHITECTURES, register
from cmaev_spec.preset import list_presets, load_preset

NANO = "cmaev_vit_nano_patch8_32"


@pytest.mark.parametrize(
    ("size", "pretraining", "finetuning"),
    [
        ("small", 24_029_376, 22_033_936),
        ("base", 94_210_944, 86_534_800),
        ("large", 342_996_992, 304_270_736),
        ("huge", 692_487_296, 632_119_440),
    ],
)
def test_parameter_counts_are_videomaes(size, pretraining, finetuning):
    name = f"cmaev_vit_{size}_patch16_224"
    with torch.device("meta"):
        masked = create_pretraining_model(name, contrast_weight=0.0)
        classifier = create_model(name, num_classes=400)
    assert sum(p.numel() for p in masked.parameters()) == pretraining
    assert sum(p.numel() for p in classifier.parameters()) == finetuning


@pytest.mark.parametrize(
    "preset", [name for name in list_presets() if "model" in load_preset(name)]
)
def test_presets_name_models_that_can_be_built(preset):
    spec = load_preset(preset)
    clip = {"num_frames": spec["data"]["clip"]["frames"], "img_size": spec["data"]["clip"]["size"]}
    name = f"cmaev_{'convvit' if 'convvit' in preset else 'vit'}_{preset.split('-')[0]}_*"
    assert spec["model"]["name"] in list_models(name)
    with torch.device("meta"):
        model = create_pretraining_model(spec["model"]["name"], contrast_weight=0.0, **clip)
        classifier = create_model(spec["model"]["name"], **clip)
    assert model.encoder.grid == classifier.encoder.grid
    assert model.encoder.grid[0] == clip["num_frames"] // 2


def test_unknown_names_list_the_choices():
    with pytest.raises(ValueError, match="cmaev_vit_nano_patch8_32"):
        create_model("cmaev_vit_giant")


def test_names_are_registered_once():
    with pytest.raises(ValueError, match="registered already"):
        register(NANO, ARCHITECTURES[NANO])
    assert NANO in list_models("*nano*")


@pytest.mark.parametrize(("frames", "size"), [(8, 32), (16, 32), (4, 48)])
def test_any_even_length_and_fitting_size(frames, size):
    model = create_model(NANO, num_classes=5, num_frames=frames, img_size=size)
    assert model(torch.zeros(2, 3, frames, size, size)).shape == (2, 5)


@pytest.mark.parametrize(
    ("argument", "value"), [("img_size", 33), ("img_size", 0), ("num_frames", 7), ("num_frames", 0)]
)
def test_a_clip_that_does_not_fit_is_refused(argument, value):
    with pytest.raises(ValueError, match=argument):
        create_model(NANO, **{argument: value})


def test_zero_classes_give_features():
    assert create_model(NANO, num_classes=0)(torch.zeros(1, 3, 8, 32, 32)).shape == (1, 128)


def test_a_negative_number_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"num_classes \(-1\)"):
        create_model(NANO, num_classes=-1)


def test_the_head_starts_small():
    head = create_model(NANO, num_classes=10, init_scale=0.001).head
    assert 0 < head.weight.std().item() < 5e-5
