"""The hybrid: against ConvMAE's formulas, what hidden pixels can do, and its sparse stages."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cmaev.masking import tube_mask
from cmaev.models import create_encoder, create_model, create_pretraining_model
from cmaev.models.convvit import ConvViTEncoder
from cmaev.models.tokens import gather_tokens, split_mask

NANO = "cmaev_convvit_nano_patch8_32"
GRID = (4, 4, 4)
TINY = {  # two blocks in both stages, and strides as in the base model, at a clip of a few cells
    "img_size": 32,
    "num_frames": 4,
    "strides": (4, 2, 2),
    "embed_dims": (8, 12, 16),
    "depths": (2, 2, 1),
    "num_heads": 2,
}


def spread(encoder):
    """Parameters far from their initial values, so that biases and norms count."""
    generator = torch.Generator().manual_seed(3)
    for parameter in encoder.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.1 * noise
    return encoder


def tubes(batch=2, *, grid=GRID, ratio=0.7, seed=0):
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(np.stack([tube_mask(grid, ratio, rng) for _ in range(batch)]))
    return mask, split_mask(mask)[0]


def clip(batch=2, *, frames=8, size=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, frames, size, size, generator=generator)


def convmae(encoder, video, mask=None):
    """All tokens by the formulas of method.md 2.1, channels first, with PyTorch's convolutions."""
    w = dict(encoder.named_parameters())

    def norm(x, name, eps=1e-5):
        shape = w[f"{name}.weight"].shape
        x = F.layer_norm(x.movedim(1, -1), shape, w[f"{name}.weight"], w[f"{name}.bias"], eps=eps)
        return x.movedim(-1, 1)

    def conv(x, name, **arguments):
        return F.conv3d(x, w[f"{name}.weight"], w[f"{name}.bias"], **arguments)

    def strided(x, name):
        return conv(x, name, stride=w[f"{name}.weight"].shape[2:])

    def embed(x, stage):
        return F.gelu(norm(strided(x, f"patch_embed{stage}.proj"), f"patch_embed{stage}.norm"))

    def block(x, name, keep):
        kernel = w[f"{name}.attn.weight"].shape[2:]
        y = keep * conv(norm(x, f"{name}.norm1"), f"{name}.conv1")
        padding = [size // 2 for size in kernel]
        y = conv(y, f"{name}.attn", padding=padding, groups=y.shape[1])
        x = x + conv(y, f"{name}.conv2")
        y = F.gelu(conv(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        return x + conv(y, f"{name}.mlp.fc2")

    keep = torch.ones(len(video), 1, *encoder.grid)
    if mask is not None:
        keep = (~mask).float().reshape(keep.shape)
    early, x = [], video
    for stage, side in ((1, encoder.sides[0]), (2, encoder.sides[1])):
        x = embed(x, stage)
        scaled = F.interpolate(keep, scale_factor=(1, side, side), mode="nearest")
        for i in range(len(getattr(encoder, f"blocks{stage}"))):
            x = block(x, f"blocks{stage}.{i}", scaled)
        early.append(strided(x, f"stage{stage}_output_decode").flatten(2).transpose(1, 2))
    x = embed(x, 3).flatten(2).transpose(1, 2)
    x = F.linear(x, w["patch_embed4.weight"], w["patch_embed4.bias"]) + encoder.pos_embed
    return x, sum(early)


@pytest.mark.parametrize("temporal_kernel", [1, 3])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_tokens_are_those_of_the_formulas(temporal_kernel, sparse, masked):
    encoder = spread(
        create_encoder(NANO, temporal_kernel=temporal_kernel, sparse_stages=sparse)
    ).eval()
    mask, visible = tubes()
    x, early = convmae(encoder, clip(), mask if masked else None)
    if masked:
        x, early = gather_tokens(x, visible), gather_tokens(early, visible)
    for block in encoder.blocks3:
        x = block(x)
    actual = encoder(clip(), visible if masked else None)
    torch.testing.assert_close(actual, encoder.norm(x + early), rtol=1e-5, atol=1e-5)


def gradients(encoder, video, visible):
    """Values, and gradients of pixels and parameters, of a sum with uneven weights."""
    video = video.clone().requires_grad_()
    encoder.zero_grad()
    tokens = encoder(video, visible)
    weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(7))
    (tokens * weights).sum().backward()
    parameters = {name: p.grad for name, p in encoder.named_parameters()}
    return tokens.detach(), {"video": video.grad, **parameters}


def assert_same(encoder, video, visible):
    encoder.sparse = True
    values, sparse = gradients(encoder, video, visible)
    encoder.sparse = False
    reference, dense = gradients(encoder, video, visible)
    torch.testing.assert_close(values, reference, rtol=1e-5, atol=1e-5)
    assert dense.keys() == sparse.keys()
    for name, gradient in dense.items():
        scale = gradient.abs().max()
        assert scale > 0, name
        torch.testing.assert_close(
            sparse[name] / scale, gradient / scale, rtol=1e-5, atol=1e-5, msg=name
        )


@pytest.mark.parametrize("temporal_kernel", [1, 3])
@pytest.mark.parametrize("shape", [TINY, None], ids=["strides-4-2-2", "nano"])
def test_sparse_equals_dense_in_values_and_gradients(shape, temporal_kernel):
    if shape is None:
        encoder = create_encoder(NANO, temporal_kernel=temporal_kernel)
        video, (_, visible) = clip(), tubes()
    else:
        encoder = ConvViTEncoder(**shape, temporal_kernel=temporal_kernel)
        video, (_, visible) = clip(frames=4), tubes(grid=(2, 2, 2), ratio=0.5)
    assert_same(spread(encoder), video, visible)


@settings(max_examples=10, deadline=None)
@given(data=st.data(), temporal_kernel=st.sampled_from([1, 3]))
def test_sparse_equals_dense_for_any_set_of_tokens(data, temporal_kernel):
    """No tubes: tokens may be visible in one slot and hidden in the next, in any order."""
    encoder = spread(ConvViTEncoder(**TINY, temporal_kernel=temporal_kernel))
    count = data.draw(st.integers(2, 8))
    rows = st.permutations(range(8)).map(lambda order: order[:count])
    visible = torch.tensor([data.draw(rows), data.draw(rows)])
    assert_same(encoder, clip(frames=4), visible)


def test_stochastic_depth_is_drawn_alike():
    encoder = spread(create_encoder(NANO, drop_path_rate=0.5)).train()
    assert [round(getattr(b.drop_path, "drop_prob", 0.0), 3) for b in blocks(encoder)] == [
        0.0,
        0.125,
        0.25,
        0.375,
        0.5,
    ]
    outputs = []
    for sparse in (True, False):
        encoder.sparse = sparse
        torch.manual_seed(0)
        outputs.append(encoder(clip(), tubes()[1]))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    assert not torch.equal(outputs[0], encoder.eval()(clip(), tubes()[1]))


def blocks(encoder):
    return [*encoder.blocks1, *encoder.blocks2, *encoder.blocks3]


@pytest.mark.parametrize("temporal_kernel", [1, 3])
@pytest.mark.parametrize("sparse", [True, False])
def test_no_gradient_reaches_hidden_pixels(temporal_kernel, sparse):
    encoder = create_encoder(NANO, temporal_kernel=temporal_kernel, sparse_stages=sparse)
    mask, visible = tubes()
    _, found = gradients(encoder, clip(), visible)
    touched = found["video"].abs().sum(1) > 0  # (B, T, H, W)
    pixels = mask.reshape(2, *GRID).repeat_interleave(2, 1)
    pixels = pixels.repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert torch.equal(touched, ~pixels)


@pytest.mark.parametrize("temporal_kernel", [1, 3])
@pytest.mark.parametrize("sparse", [True, False])
def test_hidden_pixels_cannot_change_visible_tokens(temporal_kernel, sparse):
    encoder = create_encoder(NANO, temporal_kernel=temporal_kernel, sparse_stages=sparse)
    mask, visible = tubes()
    pixels = mask.reshape(2, 1, *GRID).repeat_interleave(2, 2)
    pixels = pixels.repeat_interleave(8, 3).repeat_interleave(8, 4)
    other = torch.where(pixels, 1e3 * clip(seed=9), clip())
    assert torch.equal(encoder(clip(), visible), encoder(other, visible))
    brighter = torch.where(pixels, clip(), clip() + 1)
    assert not torch.equal(encoder(clip(), visible), encoder(brighter, visible))


def test_visible_neighbours_are_seen():
    """The depthwise kernels do reach across tokens, in space and, with three slots, in time."""
    near = torch.tensor([[0, 1]])  # neighbours along w
    later = torch.tensor([[0, 16]])  # the same place, one slot later
    for kernel, visible, expected in ((1, near, True), (1, later, False), (3, later, True)):
        encoder = create_encoder(NANO, temporal_kernel=kernel, multiscale=True)
        encoder.blocks3 = torch.nn.ModuleList()  # no attention: convolutions only
        video = clip(1).requires_grad_()
        encoder.forward_blocks(video, visible)[0, 0].sum().backward()
        other = video.grad[0, :, 0:2, 0:8, 8:16] if visible is near else video.grad[0, :, 2:4]
        assert bool(other.abs().sum() > 0) is expected


def test_parameter_counts_are_those_of_the_method():
    name = "cmaev_convvit_base_patch16_224"
    with torch.device("meta"):
        classifier = create_model(name, num_classes=400)
        fused, plain = create_encoder(name), create_encoder(name, multiscale=False)
    assert count(classifier) == 84_766_736
    assert count(fused) - count(plain) == 4_326_912
    assert {"patch_embed1.proj.weight", "blocks1.0.conv1.weight", "blocks1.0.attn.weight"} <= {
        key for key, _ in plain.named_parameters()
    }


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_each_size_has_the_decoder_of_its_vit(size):
    with torch.device("meta"):
        hybrid, vit = (
            create_pretraining_model(f"cmaev_{family}_{size}_patch16_224", contrast_weight=0.0)
            for family in ("convvit", "vit")
        )
    assert count(hybrid.decoder) == count(vit.decoder)
    assert hybrid.encoder.embed_dim == vit.encoder.embed_dim
    assert hybrid.encoder.grid == vit.encoder.grid


def test_fusion_is_one_sum_in_both_branches():
    torch.manual_seed(0)
    model = create_pretraining_model(NANO).eval()
    off = create_pretraining_model(NANO, multiscale=False).eval()
    assert off.load_state_dict(model.state_dict(), strict=False).missing_keys == []
    assert torch.equal(model.encoder(clip()), model.encode_target(clip()))
    assert torch.equal(off.encoder(clip()), off.encode_target(clip()))
    assert not torch.allclose(off.encode_target(clip()), model.encode_target(clip()), atol=1e-2)


def test_a_classifier_has_no_fusion_and_reads_every_cell():
    model = create_model(NANO, num_classes=5, init_scale=1.0)
    assert not any("output_decode" in key for key in model.state_dict())
    video = clip().requires_grad_()
    logits = model(video)
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert (video.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize(("frames", "size"), [(16, 32), (4, 48), (2, 16)])
def test_any_even_length_and_fitting_size(frames, size):
    encoder = create_encoder(NANO, num_frames=frames, img_size=size, temporal_kernel=3)
    grid = (frames // 2, size // 8, size // 8)
    assert encoder.grid == grid
    visible = tubes(grid=grid, ratio=0.5)[1]
    video = clip(frames=frames, size=size)
    assert encoder(video).shape == (2, encoder.num_tokens, 128)
    assert encoder(video, visible).shape == (2, visible.shape[1], 128)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"img_size": 36}, r"img_size \(36\) must be a positive multiple of patch_size \(8\)"),
        ({"num_frames": 7}, r"num_frames \(7\) must be a positive multiple of 2"),
        ({"temporal_kernel": 2}, r"temporal_kernel \(2\) must be 1 or 3"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        create_encoder(NANO, **arguments)


@pytest.mark.parametrize(
    "option", [{"temporal_kernel": 1}, {"multiscale": False}, {"sparse_stages": True}]
)
def test_a_vit_refuses_options_of_the_hybrid(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} has no effect on a ViT"):
        create_pretraining_model("cmaev_vit_nano_patch8_32", **option)


def test_unknown_names_list_the_hybrids():
    with pytest.raises(ValueError, match="cmaev_convvit_base_patch16_224"):
        create_encoder("cmaev_convvit_huge")


def test_a_clip_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="video must be"):
        create_encoder(NANO)(clip(frames=6))


def test_one_batch_can_be_overfitted():
    torch.manual_seed(0)
    model = create_pretraining_model(NANO)
    batch = (clip(6), clip(6, seed=2), tubes(6, ratio=0.75)[0])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(25):
        out = model(*batch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        model.update_target(0.99)
        losses.append((out["loss_reconstruction"].item(), out["loss_contrastive"].item()))
    first, last = losses[0], losses[-1]
    assert last[0] < 0.9 * first[0]
    assert last[1] < 0.2 * first[1]
    assert out["instance_accuracy"] > 0.9


def test_both_branches_compile_without_graph_breaks():
    encoder = spread(ConvViTEncoder(**{**TINY, "depths": (1, 1, 1)}, temporal_kernel=3))
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    visible, video = tubes(grid=(2, 2, 2), ratio=0.5)[1], clip(frames=4)
    for tokens in (visible, None):
        torch.testing.assert_close(compiled(video, tokens), encoder(video, tokens))


@pytest.mark.parametrize("learning", [True, False])
def test_without_gradient_early_stages_carry_what_products_give(learning):
    encoder, carried = create_encoder(NANO), {}
    for embed in (encoder.patch_embed1, encoder.patch_embed2):
        # Autocast lets norms give fp32 on GPUs; on CPUs it does not.
        embed.norm.register_forward_hook(lambda module, args, x: x.float())
    for name, block in (("first", encoder.blocks1[0]), ("second", encoder.blocks2[0])):
        block.register_forward_hook(
            lambda module, args, x, name=name: carried.update({name: x.dtype})
        )
    with torch.set_grad_enabled(learning), torch.autocast("cpu", torch.bfloat16):
        encoder(clip())
    expected = torch.float32 if learning else torch.bfloat16
    assert carried == {"first": expected, "second": expected}
