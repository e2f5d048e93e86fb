import math

import pytest
import torch

from cmaev.models.attention import Attention, attend
from cmaev.models.registry import create_encoder
from cmaev.models.tokens import gather_tokens
from cmaev.models.tubelet import sincos_table

NANO = "cmaev_vit_nano_patch8_32"


def test_position_table_is_the_closed_formula():
    table = sincos_table(64, 10)[0]
    for position in (0, 1, 17, 63):
        for column in range(10):
            angle = position / 10000 ** (2 * (column // 2) / 10)
            expected = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert table[position, column].item() == pytest.approx(expected, abs=1e-6)


def test_the_table_is_not_stored():
    assert not any("pos_embed" in name for name in create_encoder(NANO).state_dict())


def test_embedding_visible_tubelets_only_is_exact():
    encoder = create_encoder(NANO)
    video = torch.randn(2, 3, 8, 32, 32)
    visible = torch.stack([torch.randperm(64)[:9].sort().values for _ in range(2)])
    everything = gather_tokens(encoder.patch_embed(video), visible)
    torch.testing.assert_close(
        encoder.patch_embed(video, visible), everything, rtol=1e-5, atol=1e-5
    )


def test_hidden_pixels_do_not_reach_visible_tokens():
    encoder = create_encoder(NANO)
    video = torch.randn(1, 3, 8, 32, 32, requires_grad=True)
    visible = torch.tensor([[0, 5]])
    encoder.forward_blocks(video, visible).sum().backward()  # a norm would hold the sum at 0
    touched = video.grad.abs().sum(dim=(0, 1)) > 0  # (T, H, W)
    expected = torch.zeros_like(touched)
    expected[0:2, 0:8, 0:8] = True  # token 0: t=0, h=0, w=0
    expected[0:2, 8:16, 8:16] = True  # token 5: t=0, h=1, w=1
    assert torch.equal(touched, expected)


def test_attention_is_softmax_of_scaled_products():
    torch.manual_seed(0)
    attention = Attention(12, num_heads=3)
    torch.nn.init.normal_(attention.q_bias)
    torch.nn.init.normal_(attention.v_bias)
    x = torch.randn(2, 5, 12)
    wq, wk, wv = attention.qkv.weight.chunk(3)
    q, k, v = x @ wq.T + attention.q_bias, x @ wk.T, x @ wv.T + attention.v_bias
    heads = []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(4)).softmax(-1)
        heads.append(weights @ v[..., part])
    expected = attention.proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("N", [5, 1568])
def test_attention_in_bf16_without_gradient_is_attention(N):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, N, 16, dtype=torch.bfloat16)
    expected = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    with torch.no_grad():
        result = attend(q, k, v)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), expected, rtol=0.02, atol=0.02)
    fused = attend(q, k, v)
    assert (result - fused).abs().max() > 0  # two ways, or the test would show nothing


def test_under_autocast_blocks_carry_bf16_tokens_within_its_rounding():
    torch.manual_seed(0)
    encoder = create_encoder(NANO)
    video = torch.randn(2, 3, 8, 32, 32)
    carried = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda module, args, x: carried.append(x.dtype))
    exact = encoder(video)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(video).float()
        with encoder.patch_embed.register_forward_hook(lambda module, args, x: x.float()):
            wide = encoder(video).float()
    assert carried == [torch.float32] * 4 + [torch.bfloat16] * 4 + [torch.float32] * 4
    # Half a step of bf16 for each sum of eight, as if all fell on the same side.
    assert ((rounded - wide).norm() / wide.norm()).item() < 8 * 2**-9
    assert ((rounded - exact).norm() / exact.norm()).item() < 2 * 8 * 2**-9
