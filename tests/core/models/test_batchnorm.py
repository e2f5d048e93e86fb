import pytest
import torch
from torch import nn

from cmaev.models.batchnorm import GlobalBatchNorm


def pair(dim=5):
    ours, theirs = GlobalBatchNorm(dim, eps=1e-6), nn.BatchNorm1d(dim, eps=1e-6)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2)
        ours.bias.uniform_(-1, 1)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    return ours, theirs


def test_in_one_process_it_is_batch_norm():
    ours, theirs = pair()
    inputs = [(torch.randn(6, 5) * 3 + 1).requires_grad_() for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    outputs = [module(x) for module, x in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().cumsum(0).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_in_evaluation_it_uses_the_running_statistics():
    ours, theirs = pair()
    for module in (ours, theirs):
        module(torch.arange(20.0).reshape(4, 5))
        module.eval()
    x = torch.randn(3, 5)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_single_clip_is_refused():
    with pytest.raises(ValueError, match="at least 2 clips in the global batch"):
        GlobalBatchNorm(5)(torch.randn(1, 5))


def test_statistics_are_taken_in_fp32():
    x = (10 + torch.randn(64, 5)).to(torch.bfloat16)
    normalised = GlobalBatchNorm(5)(x)
    assert normalised.dtype == torch.bfloat16
    expected = (x.float() - x.float().mean(0)) / x.float().std(0, correction=0)
    torch.testing.assert_close(normalised.float(), expected, rtol=0.01, atol=0.01)
