"""VideoMAE's `.pth` files into our models, and our models into such files."""

import argparse

import pytest
import torch
from safetensors.torch import save_file

from cmaev.checkpoints import export_videomae, load_pretrained
from cmaev.models import create_model, create_pretraining_model
from cmaev_spec.exits import BadInput

NANO = "cmaev_vit_nano_patch8_32"
TINY = "cmaev_vit_tiny_patch16_224"
NOT_IN_PRETRAINING = ("target_encoder.", "projector.", "target_projector.", "predictor.")


def pretraining_state(**arguments):
    torch.manual_seed(1)
    state = create_pretraining_model(NANO, **arguments).state_dict()
    return {name: t for name, t in state.items() if not name.startswith(NOT_IN_PRETRAINING)}


def finetuning_state(**arguments):
    """VideoMAE's finetuning names: the encoder at the top, and no final norm."""
    torch.manual_seed(1)
    state = create_model(NANO, num_classes=5, init_scale=1.0, **arguments).state_dict()
    return {name.removeprefix("encoder."): tensor for name, tensor in state.items()}


def save(path, state, *, key="model"):
    """As VideoMAE's scripts do: weights, optimiser, scaler and the command line."""
    content = {
        key: state,
        "epoch": 799,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]},
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="pretrain_videomae", lr=1.5e-4, window_size=(8, 14, 14)),
    }
    torch.save(content, path)
    return path


def same(model, state, *, prefix="encoder."):
    """How many tensors of the model hold what `state` has for them."""
    own = model.state_dict()
    return sum(torch.equal(own[name], state[name]) for name in state if name.startswith(prefix))


@pytest.mark.parametrize("key", ["model", "module"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module.model."])
def test_a_pretraining_file_starts_a_pretraining_model(tmp_path, key, prefix):
    state = pretraining_state()
    wrapped = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    model = create_pretraining_model(NANO)
    report = load_pretrained(model, save(tmp_path / "file.pth", wrapped, key=key))
    assert set(report.loaded) == state.keys()
    assert same(model, state, prefix="") == len(state)
    assert report.copied == ("encoder to target_encoder", "projector to target_projector")
    target = model.target_encoder.state_dict()
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(target[name], tensor), name
    assert {name.partition(".")[0] for name in report.initial} == {"projector", "predictor"}
    assert not report.skipped


def test_a_pretraining_file_starts_a_classifier(tmp_path):
    state = pretraining_state()
    model = create_model(NANO, num_classes=3)
    report = load_pretrained(model, save(tmp_path / "file.pth", state))
    blocks = [name for name in state if name.startswith("encoder.blocks.")]
    assert set(blocks) < set(report.loaded)
    assert same(model, state, prefix="encoder.blocks.") == len(blocks)
    assert report.skipped["encoder.norm.weight"] == "this model has no encoder.norm"
    assert report.skipped["mask_token"] == "this model has no decoder"
    assert set(report.initial) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert any(line.startswith("skipped") and "no decoder" in line for line in report.lines())


@pytest.mark.parametrize("prefix", ["", "backbone.", "encoder.", "model."])
@pytest.mark.parametrize("load_head", [False, True])
def test_a_finetuning_file_starts_a_classifier(tmp_path, prefix, load_head):
    state = finetuning_state()
    inner = ("patch_embed.", "blocks.")
    renamed = {
        f"{prefix}{name}" if prefix == "model." or name.startswith(inner) else name: tensor
        for name, tensor in state.items()
    }
    torch.manual_seed(2)
    model = create_model(NANO, num_classes=5)
    report = load_pretrained(
        model, save(tmp_path / "file.pth", renamed, key="module"), load_head=load_head
    )
    own = model.state_dict()
    assert torch.equal(own["encoder.blocks.3.attn.v_bias"], state["blocks.3.attn.v_bias"])
    assert torch.equal(own["fc_norm.weight"], state["fc_norm.weight"])
    assert torch.equal(own["head.weight"], state["head.weight"]) == load_head
    assert ("on request" in report.skipped.get("head.weight", "")) != load_head
    assert report.initial == (() if load_head else ("head.bias", "head.weight"))


def test_a_head_of_other_classes_stays_behind(tmp_path):
    path = save(tmp_path / "file.pth", finetuning_state())
    report = load_pretrained(create_model(NANO, num_classes=7), path, load_head=True)
    assert report.skipped["head.weight"] == "head.weight is (5, 128) there and (7, 128) here"


def test_a_finetuned_encoder_can_go_on_pretraining(tmp_path):
    state = finetuning_state()
    model = create_pretraining_model(NANO)
    report = load_pretrained(model, save(tmp_path / "file.pth", state))
    name = "blocks.0.mlp.fc1.weight"
    assert torch.equal(model.state_dict()[f"target_encoder.{name}"], state[name])
    assert {"encoder.norm.weight", "mask_token"} <= set(report.initial)
    assert report.skipped["head.weight"] == "this model has no head"


def test_a_bias_of_the_keys_changes_nothing_and_is_left_out(tmp_path):
    state = finetuning_state()
    with_keys = {}
    for name, tensor in state.items():
        if name.endswith("q_bias"):
            value = state[name.replace("q_bias", "v_bias")]
            key = torch.randn_like(value)
            with_keys[name.replace("q_bias", "qkv.bias")] = torch.cat([tensor, key, value])
        elif not name.endswith("v_bias"):
            with_keys[name] = tensor
    model = create_model(NANO, num_classes=5)
    report = load_pretrained(model, save(tmp_path / "file.pth", with_keys), load_head=True)
    assert not report.initial
    own = model.state_dict()
    for name, tensor in state.items():
        there = name if name.startswith(("fc_norm.", "head.")) else f"encoder.{name}"
        assert torch.equal(own[there], tensor), name


def test_position_tables_are_recomputed_for_another_clip(tmp_path):
    state = {**finetuning_state(), "pos_embed": torch.zeros(1, 64, 128)}
    model = create_model(NANO, num_classes=5, num_frames=16, img_size=48)
    table = model.encoder.pos_embed.clone()
    report = load_pretrained(model, save(tmp_path / "file.pth", state), load_head=True)
    assert "recomputed" in report.skipped["pos_embed"]
    assert torch.equal(model.encoder.pos_embed, table)
    assert table.shape == (1, 8 * 6 * 6, 128)
    assert model(torch.zeros(1, 3, 16, 48, 48)).shape == (1, 5)


def test_a_decoder_of_another_depth_stays_whole_behind(tmp_path):
    path = save(tmp_path / "file.pth", pretraining_state(decoder_depth=3))
    report = load_pretrained(create_pretraining_model(NANO), path)
    reasons = {report.skipped[name] for name in report.skipped}
    assert reasons == {"decoder.blocks.2.norm1.weight is there and not here"}
    assert "encoder_to_decoder.weight" in report.skipped
    assert "decoder.head.weight" in report.initial


@pytest.mark.parametrize("name", [TINY, "deeper", "shallower"])
def test_another_architecture_is_refused_with_the_nearest_names(tmp_path, name):
    state = pretraining_state()
    if name == "deeper":
        state |= {
            key.replace("blocks.3", "blocks.4"): t for key, t in state.items() if "blocks.3" in key
        }
    if name == "shallower":
        state = {key: t for key, t in state.items() if "blocks.3" not in key}
    path = save(tmp_path / "file.pth", state)
    model = create_model(TINY if name == TINY else NANO, num_classes=3)
    before = {key: t.clone() for key, t in model.state_dict().items()}
    why = r"nearest: encoder\.\S+ \(\d.* there"
    if name == "shallower":
        why = r"encoder\.blocks\.3\.\S+ is here and not there$"
    with pytest.raises(BadInput, match=rf"another architecture.*{why}"):
        load_pretrained(model, path)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_a_file_that_fits_nothing_shows_the_nearest_names(tmp_path):
    torch.save({"model": {"encoder_blocks_0_norm1_weight": torch.ones(128)}}, tmp_path / "f.pth")
    words = r"nothing in .*encoder_blocks_0_norm1_weight \(128\) there ~ encoder\.blocks\.0\.norm1"
    with pytest.raises(BadInput, match=words):
        load_pretrained(create_model(NANO), tmp_path / "f.pth")


def test_the_licence_of_videomae_is_told(tmp_path, caplog):
    report = load_pretrained(create_model(NANO), save(tmp_path / "file.pth", finetuning_state()))
    assert "CC-BY-NC-4.0" in report.warnings[0]
    assert "CC-BY-NC-4.0" in caplog.text


def test_our_own_files_carry_no_licence_of_others(tmp_path, caplog):
    save_file(pretraining_state(), tmp_path / "ours.safetensors")
    export_videomae(create_model(NANO), tmp_path / "ours.pth")
    for name in ("ours.safetensors", "ours.pth"):
        assert not load_pretrained(create_model(NANO), tmp_path / name).warnings
    assert not caplog.records


def test_a_pretraining_model_goes_out_as_videomae_names_it(tmp_path):
    model = create_pretraining_model(NANO)
    path = export_videomae(model, tmp_path / "out" / "file.pth")
    written = torch.load(path, weights_only=True)["model"]
    own = model.state_dict()
    assert written.keys() == {name for name in own if not name.startswith(NOT_IN_PRETRAINING)}
    assert all(torch.equal(tensor, own[name]) for name, tensor in written.items())


def test_a_classifier_goes_out_and_comes_back_with_equal_answers(tmp_path):
    model = create_model(NANO, num_classes=5, init_scale=1.0).eval()
    path = export_videomae(model, tmp_path / "file.pth")
    written = torch.load(path, weights_only=True)["model"]
    assert "blocks.0.attn.q_bias" in written
    assert {"patch_embed.proj.weight", "fc_norm.weight", "head.weight"} < written.keys()
    again = create_model(NANO, num_classes=5).eval()
    load_pretrained(again, path, load_head=True)
    video = torch.randn(2, 3, 8, 32, 32)
    assert torch.equal(again(video), model(video))


def test_a_file_is_never_written_over(tmp_path):
    path = tmp_path / "file.pth"
    path.write_text("mine")
    with pytest.raises(BadInput, match="is there already"):
        export_videomae(create_model(NANO), path)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_only_our_models_can_be_written(tmp_path):
    with pytest.raises(BadInput, match="Linear is neither"):
        export_videomae(torch.nn.Linear(2, 2), tmp_path / "file.pth")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_values_that_are_no_plain_floats_are_refused(tmp_path):
    state = create_model(NANO, num_classes=5).state_dict()
    for change in (torch.Tensor.char, lambda tensor: tensor.to_sparse()):
        torch.save({name: change(tensor) for name, tensor in state.items()}, tmp_path / "file.pth")
        with pytest.raises(BadInput, match="plain floats are needed"):
            load_pretrained(create_model(NANO, num_classes=5), tmp_path / "file.pth")


def test_weights_that_diverged_are_refused(tmp_path):
    state = pretraining_state()
    state["encoder.blocks.1.mlp.fc1.bias"][3] = float("nan")
    with pytest.raises(BadInput, match=r"encoder.blocks.1.mlp.fc1.bias has values that are not"):
        load_pretrained(create_pretraining_model(NANO), save(tmp_path / "file.pth", state))
