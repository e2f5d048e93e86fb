"""Whether fast forms compute what the plain ones do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from bench.gpu.harness import Bench, Figures
from bench.gpu.inputs import FedStep, random_frames, resident
from bench.gpu.training import CapturedStep, pretraining_model, pretraining_step
from bench.steps import clips
from torch import Tensor

from cmaev.data.device import crop_resize
from cmaev.engine.precision import autocast

STEPS = 50


def exactness(bench: Bench) -> None:
    """Losses and gradients of pairs of forms, pixels of crops, and silence towards the host."""
    # Batch norms over two clips would blow the last bits of fp32 up to 1e-3 of the gradient.
    name, batch = bench.model("base"), bench.size(16, small=8)
    hybrid = bench.model("base", family="convvit")

    def both(first: dict[str, object], second: dict[str, object], model: str = name) -> Figures:
        a, b = (gradients(bench, model, batch, options) for options in (first, second))
        return {"loss difference": far(a[0], b[0]), "gradient difference": far(a[1], b[1])}

    exact = {"dtype": torch.float32}
    cases: dict[str, Callable[[], Figures]] = {
        f"bf16 against fp32 over {bench.size(STEPS, small=3)} steps": lambda: precision(
            bench, name, batch
        ),
        "blocks compiled against eager, fp32": lambda: both(exact, {**exact, "how": "blocks"}),
        "step compiled against eager, fp32": lambda: both(exact, {**exact, "how": "step"}),
        "target on a stream of its own against one stream, fp32": lambda: both(
            exact, {**exact, "overlap": True}
        ),
        "hybrid, sparse against dense, fp32": lambda: both(
            exact, {**exact, "sparse_stages": False}, hybrid
        ),
        "one CUDA graph against eager, losses of 5 steps": lambda: replays(bench, name, batch),
        "target's tokens carried in bf16 against fp32, features": lambda: residuals(
            bench, name, batch
        ),
        "no step waits for the device": lambda: silence(bench, name, batch),
        "crops against Pillow": lambda: crops(bench),
    }
    small = cases.keys() - {"step compiled against eager, fp32"}  # as blocks, in small
    with plain_fp32():
        for case, work in bench.cases(cases, small=small).items():
            bench.case("exact", case, work)


@contextmanager
def plain_fp32() -> Iterator[None]:
    """fp32 without TF32, which cuDNN's convolutions take by default, though products do not."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def far(a: Tensor, b: Tensor) -> float:
    """The norm of the difference over that of the second."""
    return ((a - b).norm() / b.norm()).item()


def gradients(
    bench: Bench, name: str, batch: int, options: dict[str, object]
) -> tuple[Tensor, Tensor]:
    """The loss and all gradients of one step of a form."""
    step = pretraining_step(bench, name, batch=batch, **options)  # type: ignore[arg-type]
    torch.manual_seed(1)
    loss = step.loss_of(step.next_batch())
    loss.backward()  # type: ignore[no-untyped-call]
    parts = [p.grad.flatten() for p in step.module.parameters() if p.grad is not None]
    return loss.detach(), torch.cat(parts)


def losses(bench: Bench, name: str, batch: int, steps: int, dtype: torch.dtype) -> Tensor:
    """Of each step of a training."""
    step = pretraining_step(bench, name, batch=batch, dtype=dtype)
    return torch.stack([step() for _ in range(steps)])


def precision(bench: Bench, name: str, batch: int) -> Figures:
    """Two trainings from the same weights on the same batches."""
    steps = bench.size(STEPS, small=3)
    exact, fast = (
        losses(bench, name, batch, steps, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    return {
        "loss difference": far(fast, exact),
        "largest of a step": ((fast - exact).abs() / exact).max().item(),
        "last loss, fp32": exact[-1].item(),
        "last loss, bf16": fast[-1].item(),
    }


@torch.no_grad()
def residuals(bench: Bench, name: str, batch: int) -> Figures:
    """The target's features under bf16 autocast, with blocks that add to bf16 or to fp32 tokens."""
    model = pretraining_model(bench, name)
    video, _ = clips(name, batch, device=bench.device)

    def feature() -> Tensor:
        with autocast(torch.bfloat16, bench.device):
            return model.target_feature(video).float()

    exact, carried = model.target_feature(video), feature()
    embed = model.target_encoder.get_submodule("patch_embed")
    with embed.register_forward_hook(lambda module, args, tokens: tokens.float()):
        wide = feature()
    return {
        "bf16 tokens to fp32 tokens": far(carried, wide),
        "bf16 tokens to fp32 all over": far(carried, exact),
        "fp32 tokens to fp32 all over": far(wide, exact),
    }


def replays(bench: Bench, name: str, batch: int) -> Figures:
    """A captured step and a plain one, each after the same three steps on the first batch."""
    bench.need_cuda()
    options = {"batch": batch, "capturable": True}
    captured = CapturedStep(pretraining_step(bench, name, **options))  # type: ignore[arg-type]
    plain = pretraining_step(bench, name, **options)  # type: ignore[arg-type]
    first = plain.next_batch()
    for _ in range(3):
        plain.on(first)
    found, expected = (
        torch.stack([step().clone() for _ in range(5)]) for step in (captured, plain)
    )
    return {"loss difference": far(found, expected)}


def silence(bench: Bench, name: str, batch: int) -> Figures:
    """A step with its input; PyTorch raises an error where the host would have to wait."""
    bench.need_cuda()
    step = pretraining_step(bench, name, batch=batch)
    fetch, views = resident(bench, name, batch=batch)
    fed = FedStep(bench, step, fetch, views.to(bench.device))
    fed()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        fed()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"host waits": 0}


def crops(bench: Bench) -> Figures:
    """Levels between crops of the device and Pillow's."""
    from cmaev.data.transforms import Box
    from cmaev.data.transforms import crop_resize as reference

    frames = random_frames(4, 2, 120, 160, 3)
    boxes = torch.tensor([[0, 0, 160, 120], [7, 3, 100, 90], [40, 20, 64, 64], [1, 1, 30, 110]])
    found = crop_resize(frames.to(bench.device), boxes.to(bench.device), size=64).cpu().numpy()
    expected = np.stack(
        [
            reference(clip, Box(*box), size=(64, 64))
            for clip, box in zip(frames.numpy(), boxes.tolist(), strict=True)
        ]
    )
    return {"levels": int(np.abs(found.astype(int) - expected.astype(int)).max())}
