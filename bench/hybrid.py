"""What the hybrid's sparse stages save in a pretraining step: `python -m bench.hybrid`.

Counts the multiply-adds of a whole CMAE-V step and times it, with hidden cells left out of the
convolutional stages and with them computed and zeroed. Prints a Markdown table; method.md 2.4
expects 346 and 519 GMAC a clip of the base model, whose ratio is 0.67.
"""

import argparse
import math
import platform
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cmaev.masking import num_visible, tube_mask
from cmaev.models import CMAEV, create_pretraining_model
from cmaev.models.architectures import architecture

FORMS = {"dense": False, "sparse": True}


def clips(name: str, batch: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two views, each (B, C, T, H, W)."""
    shape = architecture(name)
    size = (batch, 3, shape.num_frames, shape.img_size, shape.img_size)
    return torch.randn(size, device=device), torch.randn(size, device=device)


def tubes(model: CMAEV, batch: int, ratio: float) -> Tensor:
    """A mask of its own for every clip: (B, N) bool, True = hidden."""
    rng = np.random.default_rng(0)
    masks = [tube_mask(model.encoder.grid, ratio, rng) for _ in range(batch)]
    return torch.from_numpy(np.stack(masks))


def step(model: CMAEV, views: tuple[Tensor, Tensor], mask: Tensor, visible: int) -> None:
    """Forward, backward and the update of the target."""
    loss: Tensor = model(*views, mask, visible)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    model.update_target(0.996)


def convolution_backward_flops(
    grad: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    *arguments: Any,
    out_shape: Any = None,
) -> int:
    """Each gradient costs what the forward pass does; PyTorch's own rule forgets the groups."""
    *_, output_mask = arguments
    return 2 * math.prod(grad) * math.prod(weight[1:]) * sum(output_mask[:2])


def gmac_per_clip(name: str, *, sparse: bool, kernel: int, ratio: float) -> float:
    """Multiply-adds of a step in units of 10^9, counted without computing anything."""
    batch, meta = 2, torch.device("meta")
    with meta:
        model = create_pretraining_model(name, temporal_kernel=kernel, sparse_stages=sparse)
    model = model.to(meta)  # position tables are computed on the host
    views, mask = clips(name, batch, device=meta), tubes(model, batch, ratio).to(meta)
    # Fused attention is not counted on every device; the plain form has the same products.
    rules = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    counter = FlopCounterMode(display=False, custom_mapping=rules)
    with counter, sdpa_kernel(SDPBackend.MATH):
        step(model, views, mask, num_visible(model.encoder.grid, ratio))
    return float(counter.get_total_flops()) / 2 / batch / 1e9


def seconds_per_step(
    name: str, *, batch: int, kernel: int, ratio: float, rounds: int, device: torch.device
) -> dict[str, float]:
    """Shortest step of each form; the forms take turns, so that both meet the same machine."""
    models = {
        form: create_pretraining_model(name, temporal_kernel=kernel, sparse_stages=sparse).to(
            device
        )
        for form, sparse in FORMS.items()
    }
    first = models["dense"]
    views, mask = clips(name, batch, device=device), tubes(first, batch, ratio).to(device)
    visible = num_visible(first.encoder.grid, ratio)
    enabled = device.type == "cuda"
    best = dict.fromkeys(models, float("inf"))
    for _ in range(rounds):
        for form, model in models.items():
            start = time.perf_counter()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
                step(model, views, mask, visible)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best[form] = min(best[form], time.perf_counter() - start)
    return best


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="cmaev_convvit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--temporal-kernel", type=int, choices=(1, 3), default=1)
    parser.add_argument("--mask-ratio", type=float, default=0.9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    name, kernel, ratio = arguments.model, arguments.temporal_kernel, arguments.mask_ratio

    gmac = {
        form: gmac_per_clip(name, sparse=sparse, kernel=kernel, ratio=ratio)
        for form, sparse in FORMS.items()
    }
    seconds = seconds_per_step(
        name,
        batch=arguments.batch,
        kernel=kernel,
        ratio=ratio,
        rounds=arguments.rounds,
        device=torch.device(arguments.device),
    )
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{name}, batch {arguments.batch}, {ratio:.0%} hidden, kernels over {kernel} slots\n")
    print("| early stages | GMAC per clip | ms per step | GMAC over dense | time over dense |")
    print("|---|---|---|---|---|")
    for form in FORMS:
        print(
            f"| {form} | {gmac[form]:.1f} | {seconds[form] * 1e3:.0f} "
            f"| {gmac[form] / gmac['dense']:.2f} | {seconds[form] / seconds['dense']:.2f} |"
        )


if __name__ == "__main__":
    main()
