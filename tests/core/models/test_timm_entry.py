"""Our models by timm's own factory."""

import importlib

import pytest
import timm
import torch

import cmaev.models
from cmaev.models import create_model, list_models, timm_entry

NANO = "cmaev_vit_nano_patch8_32"


@pytest.mark.parametrize("name", list_models())
def test_every_model_is_known_to_timm(name):
    assert timm.is_model(name)
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=7)
        ours = create_model(name, num_classes=7)
    assert {n: t.shape for n, t in theirs.state_dict().items()} == {
        n: t.shape for n, t in ours.state_dict().items()
    }


def test_timm_lists_them():
    assert timm.list_models("cmaev_*") == sorted(list_models())
    assert set(timm.list_models(module="timm_entry")) == set(list_models())
    assert not timm.list_pretrained("cmaev_*")


def test_arguments_reach_the_model():
    model = timm.create_model(NANO, num_classes=3, num_frames=16, img_size=48, head_drop_rate=0.5)
    assert model.fc_dropout.p == 0.5
    assert model(torch.zeros(1, 3, 16, 48, 48)).shape == (1, 3)


def test_the_same_seed_gives_the_same_weights():
    torch.manual_seed(0)
    theirs = timm.create_model(NANO, num_classes=3).state_dict()
    torch.manual_seed(0)
    for name, tensor in create_model(NANO, num_classes=3).state_dict().items():
        assert torch.equal(tensor, theirs[name])


@pytest.mark.parametrize(
    "arguments",
    [
        {"pretrained": True},
        {"pretrained_cfg": "k400"},
        {"pretrained_cfg_overlay": {"url": "x"}},
        {"cache_dir": "weights"},
    ],
)
def test_there_are_no_weights_to_fetch(arguments):
    with pytest.raises(ValueError, match=r"no weights are published .*load_pretrained"):
        timm.create_model(NANO, **arguments)


def test_an_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="num_clases"):
        timm.create_model(NANO, num_clases=3)


def test_a_second_import_says_nothing():
    importlib.reload(timm_entry)
    importlib.reload(cmaev.models)
    assert getattr(timm_entry, NANO) is timm.models.model_entrypoint(NANO)
    assert timm.create_model(NANO, num_classes=3).head.out_features == 3
