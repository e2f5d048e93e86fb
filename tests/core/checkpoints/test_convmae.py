"""ConvMAE's image files in the hybrid, against a 2-D forward pass written out here.

Shapes: B pictures, H x W pixels, h x w tokens, D width.
"""

import argparse

import pytest
import torch
import torch.nn.functional as F

from cmaev.checkpoints import load_pretrained
from cmaev.models import create_model, create_pretraining_model
from cmaev_spec.exits import BadInput

HYBRID = "cmaev_convvit_nano_patch8_32"
DIMS, DEPTHS, STRIDE = (32, 64, 128), (1, 1, 3), 2


def layer(state, name, *shape):
    """A weight and a bias, neither zero."""
    state[f"{name}.weight"] = 0.3 * torch.randn(*shape)
    state[f"{name}.bias"] = 0.3 * torch.randn(shape[0])


def image_state(*, finetuned=False):
    """The names and shapes of ConvMAE's files (method.md 2.1), with random values."""
    torch.manual_seed(0)
    state = {"pos_embed": torch.randn(1, 16, DIMS[2])}
    for stage, (before, dim) in enumerate(zip((3, *DIMS[:2]), DIMS, strict=True), start=1):
        layer(state, f"patch_embed{stage}.proj", dim, before, STRIDE, STRIDE)
        layer(state, f"patch_embed{stage}.norm", dim)
        for block in (f"blocks{stage}.{index}" for index in range(DEPTHS[stage - 1])):
            for norm in ("norm1", "norm2"):
                layer(state, f"{block}.{norm}", dim)
            if stage == 3:
                layer(state, f"{block}.attn.qkv", 3 * dim, dim)
                layer(state, f"{block}.attn.proj", dim, dim)
                layer(state, f"{block}.mlp.fc1", 4 * dim, dim)
                layer(state, f"{block}.mlp.fc2", dim, 4 * dim)
            else:
                layer(state, f"{block}.conv1", dim, dim, 1, 1)
                layer(state, f"{block}.attn", dim, 1, 5, 5)
                layer(state, f"{block}.conv2", dim, dim, 1, 1)
                layer(state, f"{block}.mlp.fc1", 4 * dim, dim, 1, 1)
                layer(state, f"{block}.mlp.fc2", dim, 4 * dim, 1, 1)
    layer(state, "patch_embed4", DIMS[2], DIMS[2])
    if finetuned:
        layer(state, "fc_norm", DIMS[2])
        layer(state, "head", 10, DIMS[2])
        return state
    layer(state, "norm", DIMS[2])
    layer(state, "stage1_output_decode", DIMS[2], DIMS[0], 4, 4)
    layer(state, "stage2_output_decode", DIMS[2], DIMS[1], 2, 2)
    state["mask_token"] = torch.randn(1, 1, 64)
    state["decoder_pos_embed"] = torch.randn(1, 16, 64)
    for name, shape in (("embed", (64, 128)), ("blocks.0.norm1", (64,)), ("pred", (192, 64))):
        layer(state, f"decoder_{name}", *shape)
    return state


def saved(path, state):
    torch.save({"model": state, "epoch": 1599, "args": argparse.Namespace(lr=1e-4)}, path)
    return path


def norm2d(x, state, name):
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    x = F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps=1e-5)
    return x.permute(0, 3, 1, 2)


def image_tokens(state, picture):
    """Embeddings and convolutional stages as ConvMAE has them: (B, 3, H, W) -> (B, h*w, D)."""

    def conv(x, name, **settings):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **settings)

    x = picture
    for stage in (1, 2, 3):
        x = conv(x, f"patch_embed{stage}.proj", stride=STRIDE)
        x = F.gelu(norm2d(x, state, f"patch_embed{stage}.norm"))
        if stage < 3:
            block = f"blocks{stage}.0"
            y = conv(norm2d(x, state, f"{block}.norm1"), f"{block}.conv1")
            y = conv(y, f"{block}.attn", padding=2, groups=y.shape[1])
            x = x + conv(y, f"{block}.conv2")
            y = F.gelu(conv(norm2d(x, state, f"{block}.norm2"), f"{block}.mlp.fc1"))
            x = x + conv(y, f"{block}.mlp.fc2")
    x = x.flatten(2).transpose(1, 2)  # (B, h*w, D)
    return F.linear(x, state["patch_embed4.weight"], state["patch_embed4.bias"])


def video_tokens(encoder, video):
    """What the hybrid's transformer blocks are given: (B, C, T, H, W) -> (B, t, h*w, D)."""
    found = []
    handle = encoder.patch_embed4.register_forward_hook(lambda *call: found.append(call[2]))
    with torch.no_grad():
        encoder(video)
    handle.remove()
    return found[0].unflatten(1, (encoder.grid[0], -1))


@pytest.mark.parametrize("temporal_kernel", [1, 3])
@pytest.mark.parametrize("finetuned", [False, True])
def test_a_clip_that_stands_still_gives_what_its_picture_gave(tmp_path, finetuned, temporal_kernel):
    state = image_state(finetuned=finetuned)
    model = create_model(HYBRID, num_classes=10, temporal_kernel=temporal_kernel).eval()
    load_pretrained(model, saved(tmp_path / "file.pth", state))
    picture = torch.randn(2, 3, 32, 32)
    video = picture[:, :, None].expand(-1, -1, 8, -1, -1)  # (B, C, T, H, W)
    expected = image_tokens(state, picture)  # (B, h*w, D)
    for slot in video_tokens(model.encoder, video).unbind(1):
        torch.testing.assert_close(slot, expected, rtol=1e-4, atol=1e-4)


def test_a_pretraining_file_fills_the_whole_encoder(tmp_path):
    state = image_state()
    model = create_pretraining_model(HYBRID)
    report = load_pretrained(model, saved(tmp_path / "file.pth", state))
    assert report.origin == "ConvMAE image file"
    assert not [name for name in report.initial if name.startswith("encoder.")]
    assert "encoder to target_encoder" in report.copied
    assert report.skipped["decoder_pred.weight"] == "a decoder of pictures predicts no tubelets"
    assert "recomputed" in report.skipped["pos_embed"]
    own = model.encoder.state_dict()
    for kernel in own["patch_embed1.proj.weight"].unbind(2):
        assert torch.equal(kernel, state["patch_embed1.proj.weight"] / 2)
    fused = own["stage1_output_decode.weight"]
    assert torch.equal(fused[:, :, 0], state["stage1_output_decode.weight"])
    attention = model.encoder.blocks3[1].attn
    query, _, value = state["blocks3.1.attn.qkv.bias"].chunk(3)
    assert torch.equal(attention.q_bias, query)
    assert torch.equal(attention.v_bias, value)


def test_a_finetuning_file_brings_its_head_on_request(tmp_path):
    path = saved(tmp_path / "file.pth", image_state(finetuned=True))
    report = load_pretrained(create_model(HYBRID, num_classes=10), path, load_head=True)
    assert report.initial == ()
    assert list(report.skipped) == ["pos_embed"]


def test_a_vit_does_not_take_it(tmp_path):
    path = saved(tmp_path / "file.pth", image_state())
    with pytest.raises(BadInput, match="another architecture"):
        load_pretrained(create_model("cmaev_vit_nano_patch8_32"), path)


def test_a_kernel_over_time_starts_as_the_one_over_a_slot(tmp_path):
    """Also between our own hybrids: the longer kernel computes the same until it is trained."""
    from safetensors.torch import save_file

    short = create_model(HYBRID, num_classes=3, temporal_kernel=1, init_scale=1.0).eval()
    save_file(short.state_dict(), tmp_path / "short.safetensors")
    long = create_model(HYBRID, num_classes=3, temporal_kernel=3).eval()
    load_pretrained(long, tmp_path / "short.safetensors", load_head=True)
    video = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(long(video), short(video), rtol=1e-5, atol=1e-6)
