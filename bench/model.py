"""How much of the machine a pretraining step uses: `python -m bench.model [--model NAME]`.

Counts the FLOPs of a whole CMAE-V step, times it, and divides by the speed of a large matrix
product measured in the same run. Prints a Markdown table.
"""

import argparse
import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cmaev.masking import num_visible
from cmaev.models import create_pretraining_model
from cmaev.models.architectures import architecture


def best_seconds(work: Callable[[], object], *, device: torch.device, repeats: int) -> float:
    """Shortest of several runs, after one to warm up."""

    def once() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(repeats))


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """The practical ceiling: one large square matrix product."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=dtype)
    return 2 * n**3 / best_seconds(lambda: a @ a, device=device, repeats=5)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="cmaev_vit_nano_patch8_32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--mask-ratio", type=float, default=0.9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    shape = architecture(arguments.model)
    model = create_pretraining_model(arguments.model).to(device)
    size = (arguments.batch, 3, shape.num_frames, shape.img_size, shape.img_size)
    online, target = torch.randn(size, device=device), torch.randn(size, device=device)
    visible = num_visible(model.encoder.grid, arguments.mask_ratio)
    mask = torch.ones(arguments.batch, model.encoder.num_tokens, dtype=torch.bool, device=device)
    mask[:, :visible] = False

    def step() -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss: Tensor = model(online, target, mask, visible)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)
        model.update_target(0.996)
        return loss

    # Fused CPU attention is not counted; the plain form has the same FLOPs.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    flops = counter.get_total_flops()
    seconds = best_seconds(step, device=device, repeats=5)
    ceiling = matmul_flops_per_second(device, dtype)
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| model | batch | GFLOP per clip | ms per step | clips/s | share of matmul speed |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {arguments.model} | {arguments.batch} | {flops / arguments.batch / 1e9:.3f} "
        f"| {seconds * 1e3:.1f} | {arguments.batch / seconds:.1f} "
        f"| {flops / seconds / ceiling:.1%} |"
    )


if __name__ == "__main__":
    main()
