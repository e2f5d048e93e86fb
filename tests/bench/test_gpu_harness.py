"""The command that measures GPUs, and its harness: what it tells, keeps and counts."""

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch
from bench.gpu.__main__ import PARTS, main, use_device
from bench.gpu.finetuning import flops
from bench.gpu.harness import Bench
from bench.gpu.measure import peak_flops
from bench.gpu.results import Report
from bench.gpu.runtime import provider_for

from cmaev.models import create_model


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A harness on a CPU, with a minute left."""
    report = Report(tmp_path, {"hardware": "none"})
    return Bench(torch.device("cpu"), True, report, time.monotonic() + 60)


def test_what_fails_is_told_and_the_next_case_runs(bench: Bench) -> None:
    def need_more() -> dict[str, float]:
        bench.need_cuda()
        return {"x": 1.0}

    assert bench.case("part", "breaks", lambda: {"x": 1 / 0}) is None
    assert bench.case("part", "needs more", need_more) is None
    assert bench.case("part", "works", lambda: {"x": 1.5}) == {"x": 1.5}
    assert [row.status for row in bench.report.rows] == ["failed", "skipped", "ok"]
    assert bench.report.rows[0].reason == "ZeroDivisionError: division by zero"
    assert "| works | 1.5 |  |" in bench.report.write_tables()


def test_a_reason_is_a_line_whatever_a_library_says(bench: Bench) -> None:
    def lack() -> dict[str, float]:
        raise ImportError("\nVideoMAE needs a library\nthat was not found")

    assert bench.case("part", "lacks", lack) is None
    (row,) = bench.report.rows
    assert (row.status, row.reason) == ("skipped", "ImportError: VideoMAE needs a library")


def test_a_card_that_fails_ever_after_is_told_of_each_case(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unusable() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.compiler, "reset", unusable)
    for case in ("first", "second"):
        assert bench.case("part", case, lambda: {"x": 1.0}) is None
    assert [(row.case, row.status) for row in bench.report.rows] == [
        ("first", "failed"),
        ("second", "failed"),
    ]


def test_both_files_have_a_case_as_soon_as_it_is_done(bench: Bench, tmp_path: Path) -> None:
    bench.case("part", "works", lambda: {"x": 1.5})
    assert "works" in (tmp_path / "results.jsonl").read_text(encoding="utf-8")
    assert "| works | 1.5 |  |" in (tmp_path / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_part_lists_its_cases_without_touching_the_device(bench: Bench, device: str) -> None:
    late = dataclasses.replace(
        bench, device=torch.device(device), quick=False, deadline=time.monotonic() - 1
    )
    for part in PARTS.values():
        part(late)
    names = [(row.part, row.case) for row in late.report.rows]
    assert len(set(names)) == len(names)
    assert {part for part, _ in names} == set(PARTS)
    assert ("finetune", "inference, batch 1, compiled, CUDA graphs") in names
    assert not [case for part, case in names if part == "input" and "TF32" in case], (
        "pixels are mixed in fp16 on a GPU, where TF32 changes nothing"
    )


def test_results_of_another_run_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def measure(cases: str, *, minutes: float = 1) -> int:
        options = f"--device cpu --quick --out {out} --parts ceilings --minutes {minutes} --cases"
        return main([*options.split(), cases])

    with pytest.raises(SystemExit):
        measure("nothing")
    assert "--cases: none of these parts has 'nothing' in its name" in capsys.readouterr().err
    assert measure("bf16|none", minutes=0) == 0
    assert measure("bf16|none") == 0
    kept = (out / "results.jsonl").read_text(encoding="utf-8")
    assert json.loads(kept.splitlines()[0])["command"].endswith("--cases 'bf16|none'")
    with pytest.raises(SystemExit):
        measure("fp32")
    assert f"--out: {out} holds the results of another run" in capsys.readouterr().err
    assert (out / "results.jsonl").read_text(encoding="utf-8") == kept


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--cases", "["), "--cases: '[' is no regular expression"),
        (("--device", "foo"), "--device: 'foo' is none of cpu, cuda, cuda:1"),
        (("--device", "mps"), "--device: 'mps' is none of"),
        (("--device", "cuda:99"), "CUDA devices"),
        (("--out", "file/results"), "--out: "),
    ],
)
def test_bad_arguments_are_told_in_a_line(
    words: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as ended:
        main(["--quick", "--device", "cpu", *words])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_streams_and_events_are_those_of_the_device_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert use_device("cuda:1") == torch.device("cuda:1")
    assert chosen == [1]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA RTX A1000", None),
    ],
)
def test_the_data_sheet_is_that_of_the_card(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(dataclasses.replace(bench, device=torch.device("cuda"))) == peak


def test_onnx_runtime_computes_fp32_as_pytorch_does_and_on_the_same_card() -> None:
    assert provider_for(torch.device("cuda:1")) == (
        "CUDAExecutionProvider",
        {"device_id": "1", "use_tf32": "0"},
    )


def test_a_step_of_finetuning_has_no_gradient_of_its_pixels() -> None:
    name = "cmaev_vit_nano_patch8_32"
    forward, both = (flops(name, trained=trained) for trained in (False, True))
    model = create_model(name, num_classes=400)
    embedding = 2 * model.encoder.num_tokens * model.encoder.patch_embed.proj.weight.numel()
    assert both == pytest.approx(3 * forward - embedding)


def test_no_case_starts_when_the_time_is_over(bench: Bench) -> None:
    late = dataclasses.replace(bench, deadline=time.monotonic() - 1)
    assert late.case("part", "late", lambda: {"x": 1.0}) is None
    assert late.report.rows[0].reason.startswith("no time left")
