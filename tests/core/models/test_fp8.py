"""FP8 products of the target: what they round, what they leave alone, where they are refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cmaev.models import create_pretraining_model
from cmaev.models.fp8 import LARGEST, LOWEST_GELU, check_fp8, fp8_linear, largest, quantise

NANO = ["cmaev_vit_nano_patch8_32", "cmaev_convvit_nano_patch8_32"]


def make(name=NANO[0], **arguments):
    torch.manual_seed(0)
    return create_pretraining_model(name, **arguments)


def far(a, b):
    return ((a.float() - b).norm() / b.norm()).item()


@given(seed=st.integers(0, 1000), exponent=st.integers(-20, 20), dtype=st.sampled_from([0, 1]))
def test_rows_are_rounded_to_three_bits_of_their_own_scale(seed, exponent, dtype):
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    x *= torch.tensor([1.0, 1e3, 1e-3, 0.0, 1.0])[:, None]
    x = x.to((torch.float32, torch.bfloat16)[dtype])
    rows, scale = quantise(x, largest(x))
    assert (rows.dtype, scale.dtype, scale.shape) == (torch.float8_e4m3fn, torch.float32, (5, 1))
    values = rows.float()
    assert values.abs().amax(dim=1).tolist() == [LARGEST, LARGEST, LARGEST, 0.0, LARGEST]
    # Half a step of the mantissa, and of the smallest numbers half of the smallest of all.
    allowed = torch.maximum(x.float().abs() * (2.0**-4 + 2.0**-7), scale * 2.0**-10)
    assert ((values * scale - x.float()).abs() <= allowed).all()


@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_that_of_the_rounded_operands(biased):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 7, 64), torch.randn(48, 64) * torch.logspace(-3, 3, 48)[:, None]
    bias = torch.randn(48) if biased else None
    a, b = (rows.float() * scale for rows, scale in (quantise(t, largest(t)) for t in (x, weight)))
    exact = F.linear(a, b, bias)
    y = fp8_linear(x, weight, bias)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, exact, rtol=2**-7, atol=2**-7)
    with torch.autocast("cpu", torch.bfloat16):
        assert fp8_linear(x, weight, bias).dtype == torch.bfloat16


@pytest.mark.parametrize("name", NANO)
def test_only_the_target_is_rounded_and_no_parameter_is_new(name):
    plain, fp8 = make(name), make(name, target_precision="fp8")
    assert list(fp8.state_dict()) == list(plain.state_dict())
    fp8.load_state_dict(plain.state_dict())
    video = torch.randn(4, 3, 8, 32, 32)
    assert torch.equal(fp8.encoder(video), plain.encoder(video))
    error = far(fp8.encode_target(video), plain.encode_target(video))
    assert 1e-3 < error < 0.08, "three bits of mantissa, averaged over the products"


def test_the_target_still_follows_and_the_online_branch_still_learns():
    model = make(target_precision="fp8")
    video, mask = torch.randn(4, 3, 8, 32, 32), (torch.arange(64) >= 16).expand(4, -1)
    before = copy.deepcopy(model.target_encoder.state_dict())
    model(video, video, mask)["loss"].backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter += 0.1
    model.update_target(0.9)
    for name, value in model.target_encoder.named_parameters():
        torch.testing.assert_close(value, before[name] + 0.01, msg=name)


@torch.no_grad()
def test_a_block_is_one_graph():
    block = make(target_precision="fp8").target_encoder.blocks[0]
    tokens = torch.randn(4, 64, 128)
    compiled = torch.compile(block, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens), block(tokens))


REFUSED = r"fp8 needs a GPU of CUDA capability 8\.9"


def test_a_cpu_is_refused():
    with pytest.raises(ValueError, match=REFUSED):
        check_fp8(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_asked_whether_it_has_such_products(monkeypatch):
    if torch.cuda.get_device_capability() >= (8, 9):
        check_fp8(torch.device("cuda"))

    def none(*args, **kwargs):
        raise RuntimeError("only supported on devices with compute capability >= 9.0 or 8.9")

    monkeypatch.setattr(torch, "_scaled_mm", none)
    with pytest.raises(ValueError, match=REFUSED):
        check_fp8(torch.device("cuda"))


def test_it_has_no_effect_without_a_target():
    with pytest.warns(UserWarning, match="target_precision: no effect while contrast_weight is 0"):
        make(contrast_weight=0.0, target_precision="fp8")


def test_the_bound_of_a_gelu_holds_and_is_near():
    x = torch.linspace(-20, 20, 100_001)[:, None]
    bound, gelu = x.clamp(min=LOWEST_GELU), F.gelu(x).abs()
    assert (gelu <= bound).all()
    assert (gelu[x > 0.4] > bound[x > 0.4] / 2).all()
