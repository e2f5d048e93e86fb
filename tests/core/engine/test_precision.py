"""What a run computes in, on this device or that."""

import pytest
import torch

from cmaev.engine.precision import resolve

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("precision", "device", "has_bf16", "dtype"),
    [
        ("auto", CPU, True, torch.float32),
        ("auto", CUDA, True, torch.bfloat16),
        ("auto", CUDA, False, torch.float32),
        ("bf16", CUDA, False, torch.bfloat16),
        ("bf16", CPU, False, torch.bfloat16),
        ("fp32", CUDA, True, torch.float32),
    ],
)
def test_bf16_is_for_devices_that_compute_in_it(monkeypatch, precision, device, has_bf16, dtype):
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or has_bf16,
    )
    assert resolve(precision, device) is dtype
