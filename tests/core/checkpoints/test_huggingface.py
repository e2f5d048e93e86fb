"""`transformers` folders into our models and back, with `transformers` itself at the other end."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cmaev.checkpoints import export_huggingface, load_pretrained
from cmaev.data.constants import IMAGENET_MEAN, IMAGENET_STD
from cmaev.masking import tube_mask
from cmaev.models import create_model, create_pretraining_model
from cmaev_spec.exits import BadInput

NANO = "cmaev_vit_nano_patch8_32"
SMALL = "cmaev_vit_small_patch16_224"


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory, videomae_config, with_random_weights):
    from transformers import VideoMAEForVideoClassification

    folder = tmp_path_factory.mktemp("hub") / "classifier"
    model = VideoMAEForVideoClassification(videomae_config(NANO, num_labels=5))
    with_random_weights(model).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(classifier_folder, tmp_path):
    """A folder of one's own, and what rewrites its tensors and its configuration."""
    folder = tmp_path / "copy"
    folder.mkdir()

    def write(change=None, *, name="model.safetensors", **config):
        settings = json.loads((classifier_folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(settings))
        tensors = load_file(classifier_folder / "model.safetensors")
        tensors = change(tensors) if change else tensors
        if name.endswith(".bin"):
            torch.save(tensors, folder / name)
        else:
            save_file(tensors, folder / name)
        return folder

    return write


def logits_of(folder, video):
    from transformers import VideoMAEForVideoClassification

    model = VideoMAEForVideoClassification.from_pretrained(folder).eval()
    model.fc_norm.eps = 1e-6  # fixed at 1e-5 there
    with torch.no_grad():
        return model(video.transpose(1, 2)).logits


def ours_from(folder, **arguments):
    model = create_model(NANO, num_classes=5).eval()
    return model, load_pretrained(model, folder, load_head=True, **arguments)


@pytest.fixture(scope="session")
def video():
    return torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_classifier_answers_as_it_did_there(classifier_folder, video):
    model, report = ours_from(classifier_folder)
    assert not report.skipped
    assert not report.initial
    with torch.no_grad():
        torch.testing.assert_close(
            model(video), logits_of(classifier_folder, video), rtol=1e-5, atol=1e-6
        )


def new_bias_names(tensors):
    return {
        name.replace("q_bias", "query.bias").replace("v_bias", "value.bias"): tensor
        for name, tensor in tensors.items()
    }


def test_both_layouts_of_biases_are_the_same_weights(classifier_folder, copied, video):
    tensors = load_file(classifier_folder / "model.safetensors")
    assert any(name.endswith("q_bias") for name in tensors)
    folder = copied(new_bias_names)
    assert any(name.endswith("query.bias") for name in load_file(folder / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(ours_from(folder)[0](video), ours_from(classifier_folder)[0](video))


def test_a_pickled_folder_is_read_with_restrictions(classifier_folder, copied, video):
    folder = copied(name="pytorch_model.bin")
    with torch.no_grad():
        assert torch.equal(ours_from(folder)[0](video), ours_from(classifier_folder)[0](video))


def test_a_sharded_folder_is_read_whole(tmp_path, classifier_folder):
    from transformers import VideoMAEForVideoClassification

    model = VideoMAEForVideoClassification.from_pretrained(classifier_folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="1MB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    whole, shards = ours_from(classifier_folder)[0], ours_from(tmp_path / "shards")[0]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(shards.state_dict()[name], tensor)


def test_biases_that_were_left_out_are_an_error_and_not_zeros(copied):
    def without(tensors):
        return {name: t for name, t in tensors.items() if not name.endswith("q_bias")}

    with pytest.raises(BadInput, match=r"attn\.q_bias is here and not there"):
        ours_from(copied(without))


def test_a_model_without_biases_has_zeros(copied):
    def without(tensors):
        return {name: t for name, t in tensors.items() if not name.endswith(("q_bias", "v_bias"))}

    model, _ = ours_from(copied(without, qv_bias=False))
    assert not model.encoder.blocks[2].attn.q_bias.any()
    assert model.encoder.blocks[2].attn.qkv.weight.any()


def test_another_epsilon_is_warned_of(copied, caplog):
    _, report = ours_from(copied(layer_norm_eps=1e-12))
    assert any("layer_norm_eps is 1e-12" in text for text in report.warnings)
    assert "layer_norm_eps" in caplog.text
    _, report = ours_from(copied(layer_norm_eps=1e-6))
    assert not any("layer_norm_eps" in text for text in report.warnings)


def test_an_epsilon_that_is_no_number_is_refused(copied):
    with pytest.raises(BadInput, match="layer_norm_eps is 'x'; a number is needed"):
        ours_from(copied(layer_norm_eps="x"))


def test_another_number_of_heads_is_refused_though_all_shapes_agree(copied):
    with pytest.raises(BadInput, match="8 attention heads; this model has 4"):
        ours_from(copied(num_attention_heads=8))


@pytest.mark.parametrize(("encoder", "decoder"), [(2, 2), (4, 1)])
def test_heads_are_compared_part_by_part(tmp_path, encoder, decoder):
    folder = export_huggingface(create_pretraining_model(NANO), tmp_path / "hub")
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_attention_heads": encoder, "decoder_num_attention_heads": decoder}
    (folder / "config.json").write_text(json.dumps(config))
    model = create_pretraining_model(NANO)  # 4 heads, and 2 in the decoder
    if encoder != 4:
        with pytest.raises(BadInput, match="2 attention heads; this model has 4"):
            load_pretrained(model, folder)
    else:
        skipped = load_pretrained(model, folder).skipped
        assert "1 attention heads; this model has 2" in skipped["decoder.head.weight"]


def test_the_slip_in_the_heads_of_vit_small_is_known(
    tmp_path, videomae_config, with_random_weights
):
    from transformers import VideoMAEModel

    config = videomae_config(SMALL, num_attention_heads=16)
    with_random_weights(VideoMAEModel(config)).save_pretrained(tmp_path / "small")
    report = load_pretrained(create_model(SMALL, num_classes=3), tmp_path / "small")
    assert any("trained with 6" in text for text in report.warnings)


def test_the_licence_of_videomae_is_told(classifier_folder):
    _, report = ours_from(classifier_folder)
    assert "CC-BY-NC-4.0" in report.warnings[0]


def test_a_head_for_token_0_is_left_behind(tmp_path, videomae_config, with_random_weights):
    from transformers import VideoMAEForVideoClassification

    config = videomae_config(NANO, num_labels=5, use_mean_pooling=False)
    with_random_weights(VideoMAEForVideoClassification(config)).save_pretrained(tmp_path / "cls")
    _, report = ours_from(tmp_path / "cls")
    assert "token 0" in report.skipped["classifier.weight"]
    assert "head.weight" in report.initial


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "vit"}, "type 'vit'; videomae is needed"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ],
)
def test_another_kind_of_model_is_refused(copied, config, message):
    with pytest.raises(BadInput, match=message):
        ours_from(copied(**config))


def test_folders_without_weights_or_of_no_kind_are_refused(tmp_path, classifier_folder):
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(BadInput, match=r"neither a run directory.*nor a Hugging Face folder"):
        ours_from(folder)
    (folder / "config.json").write_text((classifier_folder / "config.json").read_text())
    with pytest.raises(BadInput, match=r"has none of model\.safetensors"):
        ours_from(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read as JSON"):
        ours_from(folder)
    with pytest.raises(BadInput, match="nowhere is not there"):
        ours_from(tmp_path / "nowhere")


def test_shards_may_not_lie_outside(copied):
    folder = copied()
    (folder / "model.safetensors").rename(folder.parent / "out.safetensors")
    index = {"weight_map": {"classifier.bias": "../out.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match="points out of its folder"):
        ours_from(folder)
    for content, message in (("{}", "has no weight_map"), ("[]", "no JSON object")):
        (folder / "model.safetensors.index.json").write_text(content)
        with pytest.raises(BadInput, match=message):
            ours_from(folder)


def test_a_classifier_is_exported_with_equal_logits(tmp_path, video, with_random_weights):
    from transformers import AutoConfig, AutoModelForVideoClassification

    model = with_random_weights(create_model(NANO, num_classes=3))
    labels = ("left", "right", "up")
    folder = export_huggingface(model, tmp_path / "out", labels=labels)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(folder, video), model(video), rtol=1e-5, atol=1e-6)
    config = AutoConfig.from_pretrained(folder)
    assert config.id2label == dict(enumerate(labels))
    assert config.layer_norm_eps == 1e-6
    loaded, info = AutoModelForVideoClassification.from_pretrained(folder, output_loading_info=True)
    assert type(loaded).__name__ == "VideoMAEForVideoClassification"
    assert not any(info.values()), info


def test_an_export_is_for_everybody_to_read(tmp_path):
    folder = export_huggingface(create_model(NANO, num_classes=3), tmp_path / "out")
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    assert modes == dict.fromkeys(names, "0o644")


def test_the_two_epsilons_that_cannot_be_set_there_matter_little(
    tmp_path, video, with_random_weights
):
    from transformers import VideoMAEForVideoClassification

    model = with_random_weights(create_model(NANO, num_classes=3))
    folder = export_huggingface(model, tmp_path / "out")
    with torch.no_grad():
        logits = VideoMAEForVideoClassification.from_pretrained(folder)(
            video.transpose(1, 2)
        ).logits
        ours = model(video)
    assert logits.argmax(1).equal(ours.argmax(1))
    torch.testing.assert_close(logits, ours, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("contrast_weight", [0.0, 1.0])
def test_a_pretraining_model_is_exported_with_equal_loss(
    tmp_path, video, contrast_weight, with_random_weights
):
    from transformers import VideoMAEForPreTraining

    model = with_random_weights(create_pretraining_model(NANO, contrast_weight=contrast_weight))
    folder = export_huggingface(model, tmp_path / "out")
    theirs, info = VideoMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    theirs.decoder.norm.eps = 1e-6  # fixed at 1e-5 there
    rng = np.random.default_rng(0)
    mask = torch.from_numpy(np.stack([tube_mask((4, 4, 4), 0.75, rng) for _ in video]))
    with torch.no_grad():
        ours = model(video, video, mask)["loss_reconstruction"]
        loss = theirs.eval()(video.transpose(1, 2), bool_masked_pos=mask).loss
    torch.testing.assert_close(loss, ours, rtol=1e-5, atol=0)


def test_the_exported_preprocessing_is_ours(tmp_path):
    from transformers import AutoImageProcessor

    folder = export_huggingface(create_model(NANO, num_classes=3), tmp_path / "out")
    processor = AutoImageProcessor.from_pretrained(folder)
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 40, 3), dtype=np.uint8)
    pixels = processor(list(frames), return_tensors="pt").pixel_values  # (1, T, C, H, W)
    crop = torch.from_numpy(frames[:, :, 4:36]).permute(0, 3, 1, 2) / 255  # (T, C, H, W)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(pixels[0], (crop - mean) / std, rtol=1e-4, atol=1e-4)


def test_what_goes_out_comes_back_without_a_licence_of_others(tmp_path, with_random_weights):
    model = with_random_weights(create_model(NANO, num_classes=5))
    again, report = ours_from(export_huggingface(model, tmp_path / "out"))
    assert not report.warnings
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_an_export_is_whole_or_not_there(tmp_path, monkeypatch):
    model = create_model(NANO, num_classes=3)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cmaev.checkpoints.huggingface_export.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        export_huggingface(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_never_written_over(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(BadInput, match="is there already"):
        export_huggingface(create_model(NANO), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_labels_must_be_as_many_as_classes(tmp_path):
    with pytest.raises(BadInput, match="2 names for 3 classes"):
        export_huggingface(create_model(NANO, num_classes=3), tmp_path / "x", labels=("a", "b"))
    with pytest.raises(BadInput, match="give each its own"):
        export_huggingface(create_model(NANO, num_classes=2), tmp_path / "x", labels=("a", "a"))


@pytest.mark.parametrize("create", [create_model, create_pretraining_model])
def test_a_hybrid_is_refused(tmp_path, create):
    with pytest.raises(BadInput, match=r"ConvViTEncoder .*the ViT encoder alone"):
        export_huggingface(create("cmaev_convvit_nano_patch8_32"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
