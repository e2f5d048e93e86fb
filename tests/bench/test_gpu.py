"""The measuring of GPUs, in small on a CPU: it runs bare, and says what it left out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# What a bare machine may lack, and what would load it.
MISSING = ("pydantic", "av", "decord", "typer", "rich", "fsspec", "matplotlib")
BARE = """
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec


def find_what_is_there(name, path=None, target=None):
    return None if name.split(".")[0] in {missing!r} else find(name, path, target)


PathFinder.find_spec = find_what_is_there
from bench.gpu.__main__ import main

code = main(sys.argv[1:])
loaded = [name for name in sys.modules if name.split(".")[0] in {missing!r}]
assert not loaded, loaded
sys.exit(code)
"""
HEADER = {
    "kind": str,
    "hardware": str,
    "command": str,
    "date": str,
    "python": str,
    "versions": dict,
}
ROW = {
    "kind": str,
    "part": str,
    "case": str,
    "status": str,
    "seconds": float,
    "figures": dict,
    "reason": str,
}


def measure(
    out: Path, *, parts: str, missing: tuple[str, ...] = MISSING, **options: str
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """Runs the command from a source checkout, without what `missing` names."""
    command = [sys.executable, "-c", BARE.format(missing=missing), "--device", "cpu", "--quick"]
    command += ["--out", str(out), "--parts", parts]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'core'}"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return done, [json.loads(line) for line in lines]


def check(rows: list[dict[str, Any]]) -> None:
    """Every line has the shape that readers of the results rely on."""
    header, *cases = rows
    for name, kind in HEADER.items():
        assert isinstance(header[name], kind), name
    assert header["kind"] == "header"
    assert {"torch", "timm", "numpy"} <= set(header["versions"])
    assert cases
    for row in cases:
        assert {name: type(value) for name, value in row.items()} == ROW, row
        assert row["kind"] == "row"
        assert row["status"] in ("ok", "skipped"), row
        assert bool(row["figures"]) == (row["status"] == "ok"), row
        assert bool(row["reason"]) == (row["status"] == "skipped"), row
        for value in row["figures"].values():
            assert isinstance(value, int | float | str)


def test_it_runs_bare_and_writes_each_case(tmp_path: Path) -> None:
    missing = (*MISSING, "transformers", "onnx", "onnxruntime")
    done, rows = measure(tmp_path, parts="ceilings,exact,onnx", missing=missing)
    assert done.returncode == 0, done.stderr
    check(rows)
    cases = {row["case"]: row for row in rows[1:]}
    features = cases["target's tokens carried in bf16 against fp32, features"]["figures"]
    assert 0 < features["bf16 tokens to fp32 tokens"] < 8 * 2**-9
    assert cases["crops against Pillow"]["figures"]["levels"] <= 1
    for case in ("blocks compiled against eager, fp32", "hybrid, sparse against dense, fp32"):
        assert cases[case]["figures"]["loss difference"] < 1e-5, case
        assert cases[case]["figures"]["gradient difference"] < 1e-5, case
    skipped = [row for row in rows[1:] if row["part"] == "onnx"]
    assert {row["reason"] for row in skipped} == {
        "ModuleNotFoundError: No module named 'onnxruntime'"
    }
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert all(row["case"] in table for row in rows[1:])


def test_every_part_runs_in_small(tmp_path: Path) -> None:
    from bench.gpu.__main__ import PARTS

    done, rows = measure(tmp_path, parts=",".join(PARTS))
    assert done.returncode == 0, done.stderr
    check(rows)
    assert {row["part"] for row in rows[1:]} == set(PARTS)
    for row in rows[1:]:
        expected = ("needs CUDA", "in small")
        assert row["status"] == "ok" or row["reason"].startswith(expected), row
    losses = {
        row["figures"]["loss"]
        for row in rows[1:]
        if row["part"] == "pretrain" and "loss" in row["figures"]
    }
    assert max(losses) - min(losses) < 1e-4, "every form of the step trains alike"


def test_fp32_is_compared_without_tf32_and_left_as_it_was() -> None:
    import torch
    from bench.gpu.exactness import plain_fp32

    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    assert before == [False, True], "PyTorch's defaults: convolutions are rounded"
    with plain_fp32():
        assert [place.allow_tf32 for place in places] == [False, False]
    assert [place.allow_tf32 for place in places] == before


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        ("nvjet_sm90_tst_192x192_64x4_1x2_h_bz_coopB_bias_TNN", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "matrix products"),
        (
            "void cutlass::device_kernel<at::cuda::detail::enable_3x_kernel_for_sm9x<Gemm>>",
            "matrix products",
        ),
        (
            "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x64",
            "attention, forward",
        ),
        (
            "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x64",
            "attention, backward",
        ),
        (
            "void cudnn::fusion::compute_dot_do_o_specialized<true, 64>(void const*)",
            "attention, backward",
        ),
        ("void cudnn::fusion::convert_dq_to_16bits<true>(void const*)", "attention, backward"),
        ("triton_poi_fused_gelu_view_22", "GELU"),
        ("triton_red_fused_gelu_gelu_backward_sum_view_14", "GELU"),
        ("triton_per_fused__to_copy_add_native_layer_norm_view_29", "norms and residuals"),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::"
            "(anonymous namespace)::FusedOptimizerTensorListMetadata<4>>",
            "optimiser and EMA",
        ),
        (
            "triton_per_fused__to_copy__unsafe_view_add_clone_div_expand_gather_mean_mse_loss"
            "_mse_loss_backward_permute_remainder_slice_std_sub_unsqueeze_view_52",
            "pixels and the loss of them",
        ),
        (
            "void at::native::reduce_kernel<128, 4, at::native::ReduceOp<float>>",
            "sums of gradients",
        ),
        ("triton_red_fused_sum_view_8", "sums of gradients"),
        ("triton_poi_fused_clone_permute_stack_18", "copies and casts"),
        ("triton_poi_fused__to_copy_7", "copies and casts"),
        ("Memset (Device)", "copies and casts"),
        ("what nobody named", "rest"),
    ],
)
def test_kernels_go_to_their_class(kernel: str, group: str) -> None:
    from bench.gpu.profiling import kernel_class

    assert kernel_class(kernel) == group
