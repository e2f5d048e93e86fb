"""What the card can do at best, and which attention is fastest on it."""

import torch
from bench.gpu.harness import Bench, Figures
from bench.gpu.measure import peak_flops, time_calls
from torch.nn.functional import scaled_dot_product_attention

from cmaev.engine.compilation import BACKENDS, Attention, attention_backend

NAMES: tuple[Attention, ...] = ("auto", "flash", "cudnn", "efficient", "math")


def ceilings(bench: Bench) -> None:
    """A large matrix product and a copy: no step runs faster than these allow."""

    def matmul(dtype: torch.dtype) -> Figures:
        n = bench.size(8192, small=256)
        a, b = (torch.randn(n, n, device=bench.device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        timing = time_calls(bench, lambda: torch.mm(a, b, out=out), warm_up=10, repeats=50)
        figures = {"n": n, "ms": timing.median * 1e3, "spread": timing.spread}
        figures["TFLOP/s"] = 2 * n**3 / timing.median / 1e12
        peak = peak_flops(bench)
        if peak is not None and dtype == torch.bfloat16:
            figures["of data sheet"] = figures["TFLOP/s"] * 1e12 / peak
        return figures

    def copy() -> Figures:
        size = bench.size(2**32, small=2**22)
        source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=bench.device)
        target = torch.empty_like(source)
        timing = time_calls(bench, lambda: target.copy_(source), repeats=30)
        return {
            "ms": timing.median * 1e3,
            "spread": timing.spread,
            "GB/s": 2 * size / timing.median / 1e9,
        }

    def upload() -> Figures:
        bench.need_cuda()
        size = 2**30
        source = torch.randint(0, 256, (size,), dtype=torch.uint8).pin_memory()
        target = torch.empty(size, dtype=torch.uint8, device=bench.device)
        timing = time_calls(bench, lambda: target.copy_(source, non_blocking=True))
        return {
            "ms": timing.median * 1e3,
            "spread": timing.spread,
            "GB/s": size / timing.median / 1e9,
        }

    bench.case("ceilings", "matrix product, bf16", lambda: matmul(torch.bfloat16))
    bench.case("ceilings", "matrix product, fp32", lambda: matmul(torch.float32))
    bench.case("ceilings", "copy on the device, bytes read and written", copy)
    bench.case("ceilings", "copy from pinned memory", upload)


def attention(bench: Bench) -> None:
    """Forward and backward of the target's and the decoder's attention at ViT-B, by backend."""
    batch = bench.size(32, small=1)
    shapes = {"encoder, all tokens": (batch, 12, 1568, 64), "decoder": (batch, 6, 1568, 64)}
    if bench.quick:
        shapes = {"encoder, all tokens": (1, 2, 64, 32)}

    def run(name: Attention, shape: tuple[int, ...]) -> Figures:
        B, h, N, d = shape
        packed = torch.randn(
            (B, N, 3, h, d), device=bench.device, dtype=bench.dtype, requires_grad=True
        )
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)  # (B, h, N, d) each, as in the model
        grad = torch.randn_like(packed[:, :, 0]).transpose(1, 2)  # (B, h, N, d)
        if name in ("cudnn", "efficient"):
            bench.need_cuda()

        def forward() -> torch.Tensor:
            return scaled_dot_product_attention(q, k, v)

        def both() -> None:
            torch.autograd.grad(forward(), (q, k, v), grad)

        flops = 4 * B * h * N * N * d
        with attention_backend(name, bench.device):
            with torch.no_grad():
                alone = time_calls(bench, forward).median
            trained = time_calls(bench, both).median
        return {
            "forward ms": alone * 1e3,
            "forward TFLOP/s": flops / alone / 1e12,
            "with backward ms": trained * 1e3,
            "with backward TFLOP/s": 3.5 * flops / trained / 1e12,
        }

    assert set(NAMES) == {"auto", *BACKENDS}
    for what, shape in shapes.items():
        for name in NAMES:
            bench.case("attention", f"{what}, {name}", lambda n=name, s=shape: run(n, s))
