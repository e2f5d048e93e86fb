"""Compiled training: the eager losses and gradients, and no kernel made twice."""

import copy

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from cmaev.data.color import draw_color
from cmaev.data.device_views import DeviceViews
from cmaev.engine.compilation import attention_backend, compile_training
from cmaev.engine.optim import adamw
from cmaev.engine.update import Update, backward
from cmaev.engine.window import Window
from cmaev.masking import tube_mask
from cmaev.models import create_model, create_pretraining_model
from cmaev.tasks.pretrain import PretrainTask
from cmaev_spec.model import ObjectiveSpec

VIT, HYBRID = "cmaev_vit_nano_patch8_32", "cmaev_convvit_nano_patch8_32"
slow = pytest.mark.slow
# The compiler looks at inner tensors and hides its own warning, but not from "error".
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def batch(*, size=4):
    """uint8 views (B, T, H, W, C), their draws, and a mask (B, N), True = hidden."""
    rng = np.random.default_rng(0)
    shape = (size, 8, 32, 32, 3)
    arrays = {
        "online": rng.integers(0, 256, shape, dtype=np.uint8),
        "target": rng.integers(0, 256, shape, dtype=np.uint8),
        "flip": rng.random(size) < 0.5,
        "color": np.stack([draw_color(rng).pack() for _ in range(size)]),
        "mask": np.stack([tube_mask((4, 4, 4), 0.75, rng) for _ in range(size)]),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def step(task, module):
    losses = task.step(module, batch())
    task.module.zero_grad()
    losses["loss"].backward()
    return losses


@pytest.mark.parametrize(
    ("name", "how", "backend"),
    [
        (VIT, "blocks", "aot_eager"),
        pytest.param(VIT, "step", "aot_eager", marks=slow),
        pytest.param(HYBRID, "blocks", "aot_eager", marks=slow),
        pytest.param(HYBRID, "step", "aot_eager", marks=slow),
    ],
)
def test_compiled_training_is_eager_training_and_compiles_once(name, how, backend):
    torch.manual_seed(0)
    model = create_pretraining_model(name)
    objective = ObjectiveSpec(mask_ratio=0.75)
    eager = PretrainTask(copy.deepcopy(model), objective=objective)
    task = PretrainTask(model, objective=objective)
    module = compile_training(model, how, backend=backend)
    assert set(model.state_dict()) == set(eager.module.state_dict())
    expected, losses = step(eager, eager.module), step(task, module)
    made = counters["stats"]["unique_graphs"]
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-5, atol=1e-5)
    for (key, one), two in zip(eager.module.named_parameters(), model.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-5, msg=key)
    step(task, module)
    assert counters["stats"]["unique_graphs"] == made > 0


@slow
def test_rates_of_stochastic_depth_do_not_exhaust_the_compiler():
    """Every block has a rate of its own; none may fall back to eager mode."""
    model = create_model(
        "cmaev_vit_tiny_patch16_224", num_frames=2, img_size=32, drop_path_rate=0.1
    )
    compile_training(model, "blocks", backend="eager")
    for _ in range(2):
        model(torch.randn(1, 3, 2, 32, 32))
    assert counters["stats"]["unique_graphs"] == 12


class NoQuestions(TorchDispatchMode):
    """Refuses what makes the host wait for a value, or for a shape that values decide."""

    ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not any(word in str(func) for word in self.ASKING), func
        if "aten.index" in str(func):
            chosen = args[1] if isinstance(args[1], (list, tuple)) else []
            assert not any(i is not None and i.dtype == torch.bool for i in chosen), func
        return func(*args, **(kwargs or {}))


def test_the_refusal_works():
    for ask in (lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool((x > 0).any())):
        with NoQuestions(), pytest.raises(AssertionError):
            ask(torch.ones(3))


@pytest.mark.parametrize("name", [VIT, HYBRID])
def test_a_step_asks_the_device_nothing(name, monkeypatch):
    # On a CPU, where it costs nothing, masks are counted; elsewhere they are not.
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    model = create_pretraining_model(name, decoder_keep_ratio=0.5, target_keep_ratio=0.5)
    task = PretrainTask(model, objective=ObjectiveSpec(mask_ratio=0.75))
    optimizer = adamw(model, weight_decay=0.05, betas=(0.9, 0.95), eps=1e-8)
    update, window = Update(model, optimizer, clip_norm=1.0), Window()
    with NoQuestions():
        update.begin()
        losses = task.step(model, batch())
        backward(losses["loss"], accumulate=1)
        window.add(losses)
        taken, norm = update.finish(0)
        window.add({"grad_norm": norm})
        task.after_step(0, total_steps=1, taken=taken)
    assert losses["loss"].isfinite()
    assert taken == 1


@slow
def test_compiled_views_are_the_eager_ones():
    views, compiled = DeviceViews(), DeviceViews()
    compiled.compile(dynamic=False, fullgraph=True)
    for expected, found in zip(views(batch()), compiled(batch()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_graphs_that_a_device_does_not_have_are_told_of():
    with pytest.warns(UserWarning, match=r"run\.cuda_graphs has no effect on cpu"):
        compile_training(torch.nn.Linear(2, 2), "step", cuda_graphs=True, backend="eager")


def test_attention_can_be_limited_to_one_implementation():
    q = torch.randn(1, 2, 8, 4, requires_grad=True)
    with attention_backend("math", q.device):
        limited = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    torch.testing.assert_close(limited, torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert "Math" not in type(limited.grad_fn).__name__
    assert "ScaledDotProduct" not in type(limited.grad_fn).__name__
    with pytest.warns(UserWarning, match=r"run\.attention: cudnn has no effect on cpu"):
        attention_backend("cudnn", q.device)
