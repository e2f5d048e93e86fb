"""Two processes with half a batch each are one process with the whole of it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("cmaev_vit_nano_patch8_32", "none"),
        ("cmaev_convvit_nano_patch8_32", "none"),
        pytest.param("cmaev_vit_nano_patch8_32", "blocks", marks=pytest.mark.slow),
        pytest.param("cmaev_vit_nano_patch8_32", "step", marks=pytest.mark.slow),
    ],
)
def test_loss_and_gradients_are_those_of_one_process(script, tmp_path, name, how):
    arguments = [str(tmp_path / "store"), str(tmp_path / "out.pt"), name, how]
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(rank), *arguments]) for rank in (0, 1)
    ]
    model = script.make_model(name)
    loss = model(*script.make_batch())["loss"]
    loss.backward()
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    both = torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(both["loss"], loss.detach(), rtol=1e-6, atol=1e-6)
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                both["gradients"][key], parameter.grad, rtol=1e-5, atol=1e-6, msg=key
            )
